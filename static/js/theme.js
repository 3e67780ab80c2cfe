// Runs before the first paint, so that the page never flashes in the wrong theme.
document.documentElement.dataset.js = "yes";
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be disabled. The page then uses the theme of the system.
}

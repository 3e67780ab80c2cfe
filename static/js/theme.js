// Runs before the page is painted, so that nobody who chose a theme sees the other one flash.
document.documentElement.dataset.js = "yes";
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be switched off; the system's theme it is.
}

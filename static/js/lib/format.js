// Format numbers and times for users. Pure functions.

/** Format an amount of micro-dollars: "$0.0046", "$1.20"; "" for 0. */
export function money(micros) {
  if (!micros) return "";
  const dollars = micros / 1e6;
  if (dollars < 0.0001) return "<$0.0001";
  if (dollars < 0.1) return `$${dollars.toFixed(4)}`;
  return `$${dollars.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

/** Format a count: 950, 12.3k, 4.1M. */
export function count(number) {
  if (number < 1000) return String(number);
  const [size, letter] = number < 999_950 ? [1e3, "k"] : [1e6, "M"];
  const value = number / size;
  return `${value < 99.95 ? Number(value.toFixed(1)) : Math.round(value)}${letter}`;
}

/** Format a duration in seconds: "0.4 s", "12 s", "3 min 05 s", "2 h 04 min". */
export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "";
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

/** Format whole seconds as a clock: "0:07", "12:30", "1:02:03". */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** Format a date relative to `now`: "just now", "5 min ago", "3 h ago", "2 d ago"; after a week, the date. */
export function ago(date, now = new Date()) {
  const seconds = (now - date) / 1000;
  if (seconds < 45) return "just now";
  if (seconds < 3570) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  if (seconds < 7 * 86_400) return `${Math.round(seconds / 86_400)} d ago`;
  const sameYear = date.getFullYear() === now.getFullYear();
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short", ...(sameYear ? {} : { year: "numeric" }) });
}

/** Format a size in bytes: "312 B", "4.1 kB", "2.0 MB". */
export function bytes(size) {
  if (!Number.isFinite(size)) return "";
  if (size < 1000) return `${size} B`;
  const [unit, letters] = size < 1e6 ? [1e3, "kB"] : size < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${(size / unit).toFixed(1)} ${letters}`;
}

/** Format a usage and its limit: "245 of 4,096 MB", "At most 512", "12, no limit", "No limit". Both may be null. */
export function used(now, limit, unit = "") {
  const whole = (number) => Math.floor(unit ? number / 1e6 : number).toLocaleString("en-US");
  const numbers = [now, limit].filter((number) => number !== null && number !== undefined).map(whole);
  const words = `${numbers.join(" of ")}${unit && numbers.length ? ` ${unit}` : ""}`;
  if (limit === null || limit === undefined) return numbers.length ? `${words}, no limit` : "No limit";
  return now === null || now === undefined ? `At most ${words}` : words;
}

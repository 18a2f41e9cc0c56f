// Numbers, times and sizes as people read them.

import { locale, t } from "./text.js";

const grouped = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const moments = new Intl.DateTimeFormat(locale, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});
const clock = new Intl.DateTimeFormat(locale, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const NON_FINITE = { nan: "NaN", inf: "∞", "-inf": "−∞" };
export const NOTHING = "–";

/** A value of the interface as a number: also of "nan", "inf", "-inf" and "1e-05"; undefined for what is none. */
export function asNumber(value) {
  if (typeof value !== "string") return typeof value === "number" ? value : undefined;
  if (value in NON_FINITE) return { nan: NaN, inf: Infinity, "-inf": -Infinity }[value];
  return value.trim() === "" || Number.isNaN(Number(value)) ? undefined : Number(value);
}

/** Four significant digits at most; large and tiny values with a power or a letter. */
export function number(value) {
  if (value === null || value === undefined) return NOTHING;
  if (typeof value !== "number") return NON_FINITE[value] ?? String(value);
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e5) return compact.format(value);
  if (Number.isInteger(value)) return grouped.format(value);
  if (size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  if (size >= 1000) return grouped.format(value);
  return size >= 1 ? value.toPrecision(4) : value.toFixed(4);
}

export const count = (value) => (value === null || value === undefined ? NOTHING : grouped.format(value));
export const short = (value) => (value === null || value === undefined ? NOTHING : compact.format(value));
export const percent = (value, digits = 1) =>
  typeof value === "number" ? `${(100 * value).toFixed(digits)} %` : NOTHING;
export const moment = (epoch_s) => (epoch_s ? moments.format(epoch_s * 1000) : NOTHING);
export const timeOfDay = (epoch_s) => clock.format(epoch_s * 1000);

export function bytes(value) {
  if (typeof value !== "number") return NOTHING;
  const power = Math.min(4, Math.floor(Math.log10(Math.max(1, value)) / 3));
  return `${(value / 1000 ** power).toPrecision(3)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

/** The two largest units of a duration: 3 d 4 h, 12 min, 8 s. */
export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return NOTHING;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return t("unit.s", { n: whole });
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return t("unit.min", { n: minutes });
  const [hours, days] = [Math.floor(minutes / 60), Math.floor(minutes / 1440)];
  const first = days ? t("unit.d", { n: days }) : t("unit.h", { n: hours });
  const rest = days ? hours % 24 : minutes % 60;
  if (!rest) return first;
  return `${first} ${days ? t("unit.h", { n: rest }) : t("unit.min", { n: rest })}`;
}

/** A value of a recipe, an environment or a plan in one line. */
export function plain(value) {
  if (value === null || value === undefined) return NOTHING;
  if (Number.isInteger(value)) return grouped.format(value);
  if (typeof value === "number") return Math.abs(value) >= 1e-3 ? String(Number(value.toPrecision(4))) : number(value);
  if (Array.isArray(value)) return value.map(plain).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

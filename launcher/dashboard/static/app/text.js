// The language of the page: what was chosen, or the first of the browser's languages that there is a dictionary for.

import { en } from "./text/en.js";
import { zh } from "./text/zh.js";

const DICTIONARIES = { en, zh };
const CHOSEN = "shardtune.language";

const wanted = [localStorage.getItem(CHOSEN), ...navigator.languages].filter(Boolean);
export const language =
  wanted.map((name) => name.slice(0, 2).toLowerCase()).find((name) => name in DICTIONARIES) ?? "en";
export const locale = language === "zh" ? "zh-CN" : "en-US";
document.documentElement.lang = locale;

/** The text of this key, with the values put in the place of {names}. */
export function t(key, values = {}) {
  const text = DICTIONARIES[language][key];
  if (text === undefined) return key;
  return text.replace(/\{(\w+)\}/g, (hole, name) => (name in values ? String(values[name]) : hole));
}

/** Changes the language and loads the page again; its address holds everything else. */
export function switchLanguage() {
  localStorage.setItem(CHOSEN, language === "zh" ? "en" : "zh");
  location.reload();
}

/** Whether there is a text for this key: for names that come from runs, such as causes of lost time. */
export const hasText = (key) => key in DICTIONARIES[language];

"use strict";
// Words of the page in two languages. An element with data-word shows that word; data-placeholder sets its placeholder.
const WORDS = JSON.parse(document.getElementById("words").textContent);
const words = {
  language: (navigator.language || "en").startsWith("zh") ? "zh" : "en",

  /** The word called `key`, with {0}, {1}, ... filled in. */
  of(key, ...parts) {
    return WORDS[key][this.language].replace(/\{(\d)\}/g, (_, index) => parts[Number(index)]);
  },

  chinese: {},

  /** A sentence of the library. */
  said(text) {
    return this.language === "zh" ? (this.chinese[text] ?? text) : text;
  },

  /** Show the language in every element that has words of its own. */
  apply() {
    document.documentElement.lang = this.language === "zh" ? "zh-CN" : "en";
    document.querySelectorAll("[data-word]").forEach((each) => (each.textContent = this.of(each.dataset.word)));
    document.querySelectorAll("[data-placeholder]").forEach((each) => (each.placeholder = this.of(each.dataset.placeholder)));
  },
};

const grouped = (number) => Number(number).toLocaleString("en-US");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const short = (number) => (number === null || number === undefined ? "" : Number(number.toPrecision(4)).toString());

/** A new element with attributes, and children that are elements or text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

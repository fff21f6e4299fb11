"use strict";
// What the page does: copies commands; searches, sorts and scrolls its tables. It asks nobody for anything.
(() => {
  const rowHeight = 34, overscan = 6;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  const number = new Intl.NumberFormat("en-US");
  document.documentElement.classList.add("js");

  function bytes(count) {
    let size = count, unit = 0;
    while (size >= 999.5 && unit < units.length - 1) { size /= 1000; unit += 1; }
    return `${size.toFixed(unit === 0 || size >= 99.95 ? 0 : 1)} ${units[unit]}`;
  }

  function make(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // -- commands -----------------------------------------------------------------------------------------

  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = make("textarea", text);
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const done = await copied(button.previousElementSibling.textContent);
      button.focus();
      button.textContent = done ? "Copied" : "Select and copy it";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // -- tables -------------------------------------------------------------------------------------------

  class SearchTable {
    constructor(section) {
      this.section = section;
      this.scroller = section.querySelector(".scroller");
      this.sizer = section.querySelector(".sizer");
      this.table = this.sizer.querySelector("table");
      this.body = this.table.tBodies[0];
      this.detail = section.querySelector(".detail");
      this.shown = section.querySelector("output");
      this.search = section.querySelector("input");
      this.choices = [...section.querySelectorAll("select")];
      this.columns = [...this.table.tHead.rows[0].cells].map((head) => ({
        head, title: head.textContent, kind: head.dataset.kind, className: head.className,
        words: JSON.parse(head.dataset.words || "{}"), values: [],
      }));
      this.view = [];
      this.active = 0;
      this.sorted = { column: -1, descending: false };
    }

    async load() {
      const packed = this.section.querySelector("script");
      const raw = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
      packed.remove();
      const text = await new Response(
        new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
      for (const line of text.split("\n")) {
        if (line) JSON.parse(line).forEach((cells, at) => { for (const cell of cells) this.columns[at].values.push(cell); });
      }
      this.count = this.columns[0].values.length;
      this.offerChoices();
      this.listen();
      this.section.classList.add("loaded");
      this.select();
    }

    offerChoices() {
      for (const choice of this.choices) {
        const column = this.columns[choice.dataset.column];
        for (const value of [...new Set(column.values)].sort()) {
          const option = make("option", this.said(column, value) || "–");
          option.value = JSON.stringify(value);
          choice.append(option);
        }
      }
    }

    listen() {
      let waits = 0;
      this.search.addEventListener("input", () => { clearTimeout(waits); waits = setTimeout(() => this.select(), 60); });
      for (const choice of this.choices) choice.addEventListener("change", () => this.select());
      this.columns.forEach((column, at) => {
        column.head.querySelector("button").addEventListener("click", () => this.sort(at));
      });
      let frame = 0;
      const later = () => { frame = frame || requestAnimationFrame(() => { frame = 0; this.draw(); }); };
      this.scroller.addEventListener("scroll", later, { passive: true });
      new ResizeObserver(later).observe(this.scroller);
      this.body.addEventListener("keydown", (event) => this.move(event));
      this.body.addEventListener("click", (event) => {
        const row = event.target.closest("tr");
        if (row) this.open(Number(row.dataset.at));
      });
    }

    said(column, value) {
      if (value === null || value === undefined) return "";
      if (column.kind === "bytes") return bytes(value);
      if (typeof value === "number") return number.format(value);
      return Object.hasOwn(column.words, value) ? column.words[value] : value;
    }

    // Of each row its texts in small letters, made when somebody searches for the first time.
    texts() {
      if (!this.lower) {
        const searched = this.columns.filter((column) => column.kind !== "bytes");
        this.lower = Array.from({ length: this.count }, (_, row) =>
          searched.map((column) => column.kind === "word" ? this.said(column, column.values[row]) : column.values[row])
            .join("\n").toLowerCase());
      }
      return this.lower;
    }

    select() {
      const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = this.choices.filter((choice) => choice.value)
        .map((choice) => [this.columns[choice.dataset.column].values, JSON.parse(choice.value)]);
      const texts = words.length ? this.texts() : null;
      const view = [];
      for (let row = 0; row < this.count; row += 1) {
        if (chosen.every(([values, value]) => values[row] === value)
          && words.every((word) => texts[row].includes(word))) view.push(row);
      }
      this.view = view;
      this.order();
    }

    sort(at) {
      const again = this.sorted.column === at;
      this.sorted = again && this.sorted.descending ? { column: -1, descending: false }
        : { column: at, descending: again };
      this.columns.forEach((column, each) => {
        if (each === this.sorted.column) column.head.setAttribute("aria-sort", this.sorted.descending ? "descending" : "ascending");
        else column.head.removeAttribute("aria-sort");
      });
      if (this.sorted.column < 0) this.select(); else this.order();
    }

    order() {
      const { column, descending } = this.sorted;
      if (column >= 0) {
        const values = this.columns[column].values, sign = descending ? -1 : 1;
        const compare = (one, other) => one === other ? 0
          : one === null || one === "" ? 1 : other === null || other === "" ? -1 : one < other ? -sign : sign;
        this.view.sort((one, other) => compare(values[one], values[other]) || one - other);
      }
      this.active = 0;
      this.scroller.scrollTop = 0;
      this.detail.replaceChildren();
      this.shown.textContent = this.view.length === this.count ? `${number.format(this.count)} rows`
        : `${number.format(this.view.length)} of ${number.format(this.count)} rows`;
      this.table.setAttribute("aria-rowcount", String(this.view.length + 1));
      this.draw();
    }

    draw() {
      const head = this.table.tHead.offsetHeight;
      const fits = Math.ceil(this.scroller.clientHeight / rowHeight) + 2 * overscan;
      const first = Math.max(0, Math.min(Math.floor(this.scroller.scrollTop / rowHeight) - overscan, this.view.length - fits));
      const count = Math.min(fits, this.view.length - first);
      this.sizer.style.height = `${head + this.view.length * rowHeight}px`;
      this.table.style.marginTop = `${first * rowHeight}px`;
      while (this.body.rows.length < count) this.body.append(this.newRow());
      while (this.body.rows.length > count) this.body.lastElementChild.remove();
      const inView = this.active >= first && this.active < first + count ? this.active
        : Math.min(first + overscan, first + count - 1);
      for (let at = 0; at < count; at += 1) this.fill(this.body.rows[at], first + at, first + at === inView);
    }

    newRow() {
      const row = make("tr");
      this.columns.forEach((column, at) => {
        const cell = make(at ? "td" : "th", undefined, column.className);
        if (!at) { cell.scope = "row"; const button = make("button"); button.type = "button"; cell.append(button); }
        row.append(cell);
      });
      return row;
    }

    fill(row, at, isReached) {
      const known = this.view[at];
      row.dataset.at = String(at);
      row.setAttribute("aria-rowindex", String(at + 2));
      row.classList.toggle("odd", at % 2 === 1);
      this.columns.forEach((column, each) => {
        const cell = row.cells[each], text = this.said(column, column.values[known]);
        const holder = each ? cell : cell.firstElementChild;
        if (holder.textContent !== text) holder.textContent = text;
        if (column.kind === "word") cell.dataset.word = column.values[known];
        if (!each) holder.tabIndex = isReached ? 0 : -1;
      });
    }

    move(event) {
      const row = event.target.closest("tr");
      const page = Math.max(1, Math.floor(this.scroller.clientHeight / rowHeight) - 2);
      const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.view.length, End: this.view.length };
      if (!row || !(event.key in steps)) return;
      event.preventDefault();
      const last = this.view.length - 1;
      this.active = Math.max(0, Math.min(last, Number(row.dataset.at) + steps[event.key]));
      const top = this.active * rowHeight, head = this.table.tHead.offsetHeight;
      const room = this.scroller.clientHeight - head - rowHeight;
      if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
      if (top > this.scroller.scrollTop + room) this.scroller.scrollTop = top - room;
      this.draw();
      const reached = [...this.body.rows].find((each) => Number(each.dataset.at) === this.active);
      if (reached) reached.querySelector("button").focus({ preventScroll: true });
    }

    open(at) {
      const known = this.view[at], list = make("dl");
      this.active = at;
      for (const column of this.columns) {
        const text = this.said(column, column.values[known]);
        if (text === "") continue;
        const pair = make("div");
        pair.append(make("dt", column.title), make("dd", text));
        list.append(pair);
      }
      this.detail.replaceChildren(list);
    }

    // Shows these rows alone: a value for each choice by its column's title, and what to search for.
    choose(values) {
      this.search.value = values.Search || "";
      for (const choice of this.choices) {
        const value = values[this.columns[choice.dataset.column].title];
        choice.value = value === undefined ? "" : JSON.stringify(value);
      }
      this.select();
    }
  }

  const tables = {};
  for (const section of document.querySelectorAll(".search-table")) {
    const table = new SearchTable(section);
    table.load().then(() => { tables[section.dataset.name] = table; document.documentElement.dataset[section.dataset.name] = "ready"; });
  }

  for (const link of document.querySelectorAll("a[data-choose]")) {
    link.addEventListener("click", () => {
      const table = tables[link.dataset.table];
      if (table) table.choose(JSON.parse(link.dataset.choose));
    });
  }
})();

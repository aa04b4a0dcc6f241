// The console without this script: everything works. With it: keys, copying, wallets that sign,
// local times, charts.
(() => {
  'use strict';

  const isTyping = (target) =>
    target instanceof HTMLElement &&
    (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

  // Inbox keys. They move the focus; only Enter, on a button in focus, changes anything.
  document.addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target)) return;
    const rows = [...document.querySelectorAll('[data-row]')];
    const at = rows.indexOf(document.activeElement);
    const focus = (element) => {
      if (!element) return;
      element.focus();
      element.scrollIntoView({ block: 'nearest' });
      event.preventDefault();
    };
    const open = (anchor) => {
      const row = rows[at] ?? rows[0];
      if (row) {
        event.preventDefault();
        location.assign(`${row.href}#${anchor}`);
      }
    };
    switch (event.key) {
      case 'j': return focus(rows[Math.min(at + 1, rows.length - 1)]);
      case 'k': return focus(rows[Math.max(at - 1, 0)]);
      case 'a': return document.getElementById('approve') ? focus(document.getElementById('approve')) : open('approve');
      case 'd': return document.getElementById('reason') ? focus(document.getElementById('reason')) : open('reason');
    }
  });

  // A key in the inbox led here: the focus goes where the address says.
  const goal = location.hash && document.getElementById(location.hash.slice(1));
  if (goal) goal.focus();

  // Enter with Ctrl sends the form of a text area.
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && event.target.form) {
      event.target.form.requestSubmit();
    }
  });

  document.addEventListener('click', async (event) => {
    const button = event.target.closest('[data-copy]');
    if (!button) return;
    const text = button.parentElement.querySelector('code').textContent;
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
    setTimeout(() => (button.textContent = 'Copy'), 2000);
  });

  // A wallet in this browser (EIP-1193) signs the message that links it, where there is one.
  const wallet = document.querySelector('[data-wallet]');
  if (wallet && window.ethereum) {
    wallet.hidden = false;
    wallet.addEventListener('click', async () => {
      const bytes = new TextEncoder().encode(document.getElementById('message').value);
      const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
      const params = [`0x${hex}`, wallet.dataset.wallet];
      await window.ethereum.request({ method: 'eth_requestAccounts' });
      const signature = await window.ethereum.request({ method: 'personal_sign', params });
      document.getElementById('signature').value = signature;
      wallet.form.requestSubmit();
    });
  }

  // Moments in the reader's own zone; the exact one stays in the title.
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: 'short', timeStyle: 'medium' });
  const localise = (root) => {
    for (const time of root.querySelectorAll('time[datetime]')) {
      const at = new Date(time.dateTime);
      if (!Number.isNaN(at.getTime())) time.textContent = format.format(at);
    }
  };
  localise(document);

  // A chart is drawn from the table below it, which says the same.
  const draw = (root) => {
    for (const figure of root.querySelectorAll('[data-chart]')) {
      const rows = [...figure.querySelectorAll('tbody tr')];
      if (typeof uPlot === 'undefined' || rows.length < 2) continue;
      // Cells hold millionths of the reference currency.
      const number = (cell) => Number(cell.dataset.value) / 1e6;
      const data = [rows.map((row) => Number(row.dataset.at))];
      const heads = [...figure.querySelectorAll('thead th')].slice(1);
      heads.forEach((_, i) => data.push(rows.map((row) => number(row.cells[i + 1]))));
      const style = getComputedStyle(document.documentElement);
      const colour = (name) => style.getPropertyValue(name).trim();
      const strokes = ['--chart-1', '--chart-2', '--chart-3', '--chart-4'].map(colour);
      // What is left of a budget holds until the next call takes of it.
      const paths = 'steps' in figure.dataset ? uPlot.paths.stepped({ align: 1 }) : undefined;
      const dashes = [[], [6, 4], [2, 3], [10, 4]];
      const place = figure.querySelector('.plot');
      place.replaceChildren();
      const axis = { stroke: colour('--soft'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line'), width: 1 } };
      const options = {
        width: Math.max(place.clientWidth, 240),
        height: 220,
        series: [{}, ...heads.map((head, i) => ({ label: head.textContent, stroke: strokes[i % 4], dash: dashes[i % 4], width: 2, paths }))],
        axes: [axis, { ...axis, size: 60 }],
        cursor: { y: false },
      };
      const plot = new uPlot(options, data, place);
      new ResizeObserver(() => plot.setSize({ width: Math.max(place.clientWidth, 240), height: 220 })).observe(place);
    }
  };
  draw(document);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => draw(document));

  document.addEventListener('htmx:afterSwap', (event) => {
    localise(event.detail.target);
    draw(event.detail.target);
  });
})();

'use strict';
// The page's controls and drawing. `facts` is the run's description (sharing/description.py).
(async () => {
  const $ = id => document.getElementById(id);
  const el = (tag, attrs = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attrs)) {
      if (key in node) node[key] = value; else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };
  const signed = (x, digits = 2) => {
    const size = Math.abs(x).toFixed(digits);
    return (Number(size) === 0 ? '' : x < 0 ? '−' : '+') + size;
  };
  const capital = text => text[0].toUpperCase() + text.slice(1);
  const short = x => String(+x.toFixed(2)).replace('-', '−');
  const status = $('status');

  // Parts of the page: files next to it, or inside it as gzip. There a character from U+3400 on
  // holds 15 bits, and "apart" has the bytes at even places before those at odd ones (page.py).
  function bytesOf(text, size) {
    const bytes = new Uint8Array(size);
    for (let i = 0, n = 0, held = 0, bits = 0; n < size; i++) {
      held = (held << 15) | (text.charCodeAt(i) - 0x3400);
      for (bits += 15; bits >= 8 && n < size; held &= (1 << bits) - 1) { bits -= 8; bytes[n++] = held >> bits; }
    }
    return bytes;
  }
  function together(bytes) {
    const whole = new Uint8Array(bytes.length), odd = Math.ceil(bytes.length / 2);
    for (let i = 0; i < bytes.length; i++) whole[i] = bytes[(i % 2 ? odd : 0) + (i >> 1)];
    return whole;
  }
  async function part(name) {
    const node = $('part-' + name), { src, bytes, order } = node.dataset;
    if (src) return new Uint8Array(await (await fetch(src)).arrayBuffer());
    const packed = bytesOf(node.textContent, +bytes);
    node.textContent = '';
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
    const whole = new Uint8Array(await new Response(stream).arrayBuffer());
    return order === 'apart' ? together(whole) : whole;
  }

  const started = performance.now();
  const facts = JSON.parse($('facts-json').textContent);
  const { channels, height, width, range: [low, high] } = facts.image;
  const inline = $('part-wasm').dataset.src === undefined;
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await part('wasm');
  const mjs = inline ? URL.createObjectURL(new Blob([await part('mjs')], { type: 'text/javascript' }))
    : new URL($('part-mjs').dataset.src, location.href).href;
  ort.env.wasm.wasmPaths = { mjs };
  const open = async name => ort.InferenceSession.create(await part(name), { executionProviders: ['wasm'] });
  const generator = await open('generator');
  let reader = null; // opened when it is first used

  // State: what the address holds after its #.

  const dims = facts.codes.flatMap((code, i) => (code.dims || []).map((dim, d) => ({ ...dim, code, i, d })));
  const main = facts.codes.findIndex(code => code.labels);
  const first = main >= 0 ? main : facts.codes.findIndex(code => code.kind === 'categorical');
  const middle = code => (code.low + code.high) / 2;
  const targets = [ // what the grid's columns can vary
    ...facts.codes.flatMap((code, i) => (code.dims ? code.dims.map((dim, d) => ({ key: dim.name, code, i, d, title: titleOf(dim) }))
      : [{ key: code.name, code, i, d: 0, title: titleOf(code) }])),
  ];
  const state = {
    seed: 0, row: 0, rows: 4, own: false,
    columns: (first >= 0 ? facts.codes[first].name : targets[0].key),
    values: facts.codes.map(code => (code.dim ? Array(code.dim).fill(middle(code)) : 0)),
  };

  function titleOf(thing) {
    if (thing.factor) return thing.factor;
    const plain = /^c(\d+)_(categorical|bernoulli|uniform|gaussian|angle)(\[\d+\])?$/.exec(thing.name);
    if (!plain) return thing.name.replaceAll('_', ' ');
    const words = { categorical: 'Category', bernoulli: 'Switch', uniform: 'Uniform', gaussian: 'Gaussian', angle: 'Angle' };
    const alone = !plain[3] && facts.codes.filter(code => code.kind === plain[2]).length === 1;
    return alone ? words[plain[2]] : `${words[plain[2]]} c${plain[1]}${plain[3] || ''}`;
  }

  // A category's heading: its label where eval.json knows one. Columns follow the labels' order.
  const heading = (code, k) => (code.kind === 'bernoulli' ? (k ? 'on' : 'off')
    : !code.labels ? String(k) : code.labels[k] === null ? '–' : String(code.labels[k]));
  function order(code) {
    const all = Array.from({ length: code.kind === 'bernoulli' ? 2 : code.n }, (_, k) => k);
    if (!code.labels) return all;
    const place = k => (code.labels[k] === null ? Infinity : code.labels[k]);
    return all.sort((a, b) => (place(a) === place(b) ? a - b : place(a) < place(b) ? -1 : 1));
  }

  const wholeNumber = (text, least, most) => {
    const n = Number(text);
    return Number.isSafeInteger(n) && n >= least && n <= most ? n : null;
  };
  function readAddress() {
    const query = new URLSearchParams(location.hash.slice(1));
    const take = (name, least, most) => { const n = query.has(name) ? wholeNumber(query.get(name), least, most) : null; if (n !== null) state[name] = n; };
    take('seed', 0, Number.MAX_SAFE_INTEGER); take('row', 0, 2 ** 32 - 1); take('rows', 1, 10);
    state.own = query.get('own') === '1';
    if (targets.some(t => t.key === query.get('columns'))) state.columns = query.get('columns');
    facts.codes.forEach((code, i) => {
      if (!query.has(code.name)) return;
      const parts = query.get(code.name).split(',').map(Number);
      if (code.dim) { if (parts.length === code.dim && parts.every(Number.isFinite)) state.values[i] = parts.map(x => Math.min(code.high, Math.max(code.low, x))); }
      else { const k = wholeNumber(parts[0], 0, (code.n || 2) - 1); if (k !== null) state.values[i] = k; }
    });
  }
  function writeAddress() {
    const query = new URLSearchParams({ seed: state.seed, row: state.row, rows: state.rows, columns: state.columns });
    if (state.own) query.set('own', '1');
    facts.codes.forEach((code, i) => query.set(code.name, [state.values[i]].flat().map(x => +x.toFixed(4)).join(',')));
    try { history.replaceState(null, '', '#' + query); } catch { /* too many changes at once: the next one writes it */ }
  }
  let addressTimer = 0;

  // Latents

  const draws = new Map();
  function drawOf(row) { // what LatentSpec.sample(seed=…) gives in this row
    const key = `${state.seed}/${row}`;
    if (!draws.has(key)) { if (draws.size > 500) draws.clear(); draws.set(key, latents.sample(facts, state.seed, row)); }
    return draws.get(key);
  }
  function drawnCodes(row) { // as LatentSpec.traverse: categories follow the row
    return drawOf(row).values.map((value, i) => (facts.codes[i].kind === 'categorical' ? row % facts.codes[i].n : value));
  }
  const currentLatent = () => latents.assemble(facts, drawOf(state.row).noise, state.values);
  function withValue(values, target, value) {
    const copy = values.map(v => (Array.isArray(v) ? [...v] : v));
    if (target.code.dim) copy[target.i][target.d] = value; else copy[target.i] = value;
    return copy;
  }

  // Drawing. The main picture comes first after each change; small pictures follow a few at a time
  // and go on where they stopped, so that all keep moving while a slider moves.

  let msPerImage = 4;
  async function run(rows) {
    const wide = rows[0].length, input = new Float32Array(rows.length * wide);
    rows.forEach((row, i) => input.set(row, i * wide));
    const t = performance.now();
    const output = await generator.run({ latent: new ort.Tensor('float32', input, [rows.length, wide]) });
    msPerImage = 0.8 * msPerImage + 0.2 * (performance.now() - t) / rows.length;
    return output.images.data;
  }
  function paint(canvas, pixels, offset = 0) {
    canvas.width = width; canvas.height = height;
    const data = new ImageData(width, height), plane = width * height;
    for (let p = 0; p < plane; p++) {
      for (let c = 0; c < 3; c++) {
        const value = pixels[offset + (channels === 3 ? c : 0) * plane + p];
        data.data[4 * p + c] = Math.round((255 * (value - low)) / (high - low));
      }
      data.data[4 * p + 3] = 255;
    }
    canvas.getContext('2d').putImageData(data, 0, 0);
  }

  let version = 0, drawing = false, small = [], cursor = 0, drawn = 0, settled = -1;
  const page = (window.explorer = { facts, state, ready: false, latent: currentLatent, run, get drawn() { return drawn; }, get settled() { return settled === version; } });
  async function redraw() {
    version++;
    clearTimeout(addressTimer);
    addressTimer = setTimeout(writeAddress, 150);
    if (drawing) return;
    drawing = true;
    try {
      let left = 0, seen = -1;
      do {
        if (seen !== version) {
          seen = version;
          const latent = currentLatent(), pixels = await run([latent]);
          page.lastInput = Array.from(latent); page.lastOutput = Array.from(pixels);
          paint($('picture'), pixels);
          drawn++;
          left = small.length;
        } else {
          const count = Math.min(left, small.length, Math.max(1, Math.floor(24 / msPerImage)));
          const jobs = Array.from({ length: count }, () => small[cursor++ % small.length]);
          cursor %= small.length;
          const pixels = await run(jobs.map(job => job.latent()));
          jobs.forEach((job, i) => paint(job.canvas, pixels, i * channels * height * width));
          left -= count;
        }
        await new Promise(resolve => setTimeout(resolve));
      } while (left > 0 || seen !== version);
      settled = version;
      status.textContent = `${msPerImage.toFixed(1)} ms per picture · loaded in ${(page.loadMs / 1000).toFixed(1)} s`;
    } catch (error) { fail(error); } finally { drawing = false; }
  }
  function fail(error) {
    page.failed = String(error);
    status.textContent = `This browser cannot run the network: ${error}. Try a current Chromium, Firefox or Safari.`;
    status.className = 'failed';
  }

  // Controls

  const refreshers = []; // put the state into the controls
  const changed = () => { refreshers.forEach(refresh => refresh()); redraw(); };
  let thumbs = [];

  facts.codes.forEach((code, i) => {
    const box = el('fieldset');
    $('codes').append(box);
    if (code.kind === 'categorical') {
      box.append(el('legend', { className: 'title' }, el('b', { textContent: capital(titleOf(code)) }),
        el('small', { textContent: code.labels ? 'headed by the label that each was matched with' : code.name === titleOf(code) ? '' : code.name })));
      const pictured = i === first;
      const chips = el('div', { className: pictured ? 'chips' : 'chips plain' });
      box.append(chips);
      for (const k of order(code)) {
        const name = code.labels ? (code.labels[k] === null ? `category ${k}, no label` : `label ${code.labels[k]}, category ${k}`) : `category ${k}`;
        const input = el('input', { type: 'radio', name: code.name, value: k, 'aria-label': name });
        input.addEventListener('change', () => { state.values[i] = k; changed(); });
        const chip = el('label', { className: 'chip' });
        if (pictured) {
          const canvas = el('canvas', { width, height, 'aria-hidden': 'true' });
          chip.append(canvas);
          thumbs.push({ canvas, latent: () => latents.assemble(facts, drawOf(state.row).noise, withValue(state.values, { code, i, d: 0 }, k)) });
        }
        chip.append(input, el('span', { textContent: heading(code, k) }));
        chips.append(chip);
        refreshers.push(() => { input.checked = state.values[i] === k; });
      }
    } else if (code.kind === 'bernoulli') {
      const input = el('input', { type: 'checkbox', name: code.name });
      input.addEventListener('change', () => { state.values[i] = +input.checked; changed(); });
      refreshers.push(() => { input.checked = state.values[i] === 1; });
      box.append(el('label', { className: 'check' }, input, el('b', { textContent: capital(titleOf(code)) })));
    }
    (code.dims || []).forEach((dim, d) => {
      const title = titleOf(dim), id = `dim-${i}-${d}`;
      const value = el('output', { htmlFor: id });
      const move = el('button', { type: 'button', textContent: '▶', 'aria-label': `Play ${title}`, 'aria-pressed': 'false', title: `Play ${title}` });
      move.addEventListener('click', () => toggle(i, d));
      refreshers.push(() => { const on = moving.has(`${i}/${d}`); move.setAttribute('aria-pressed', on); move.textContent = on ? '❚❚' : '▶'; });
      const known = dim.factor ? `${dim.name} (ρ ${signed(dim.rho).replace('0.', '.')})` : dim.name === title ? '' : dim.name;
      const input = el('input', { type: 'range', id, name: dim.name, min: code.low, max: code.high, step: (code.high - code.low) / 400 });
      input.setAttribute('aria-label', dim.factor ? `${title}, ${known}` : title);
      const slider = el('div', { className: 'slider' }, input);
      const where = x => `${(100 * (x - code.low)) / (code.high - code.low)}%`;
      const mark = (x, text) => slider.append(el('i', { textContent: text, style: `left: calc(10px + (100% - 20px) * ${(x - code.low) / (code.high - code.low)})` }));
      if (code.marks) {
        const sd = code.kind === 'gaussian';
        mark(code.marks[0], sd ? '−1 sd' : short(code.marks[0]));
        mark(code.marks[1], sd ? '+1 sd' : short(code.marks[1]));
      } else { mark(code.low, '−180°'); mark(0, '0°'); mark(code.high, '180°'); }
      slider.style.setProperty('--a', where(code.marks ? code.marks[0] : code.low));
      slider.style.setProperty('--b', where(code.marks ? code.marks[1] : code.high));
      const spoken = x => (code.kind === 'angle' ? `${signed((x * 180) / Math.PI, 0)}°` : signed(x));
      input.addEventListener('input', () => { moving.delete(`${i}/${d}`); state.values[i][d] = +input.value; changed(); });
      input.addEventListener('dblclick', () => { moving.delete(`${i}/${d}`); state.values[i][d] = middle(code); changed(); });
      refreshers.push(() => {
        input.value = state.values[i][d];
        value.value = spoken(state.values[i][d]);
        input.setAttribute('aria-valuetext', value.value);
      });
      box.append(el('div', { className: 'title' }, el('b', { textContent: capital(title) }), el('small', { textContent: known }), value, move), slider);
      if (d + 1 < code.dim) slider.style.marginBottom = '1rem';
    });
  });

  // Play: a continuous dim swings between its ends; without any, the categories take turns.

  const moving = new Map();
  let turn = 0;
  function toggle(i, d) {
    const key = `${i}/${d}`, code = facts.codes[i];
    if (!moving.delete(key)) {
      const half = (code.high - code.low) / 2;
      const at = Math.max(-1, Math.min(1, (state.values[i][d] - middle(code)) / half));
      moving.set(key, { code, i, d, since: performance.now(), phase: Math.asin(at), period: 4000 + 1300 * moving.size });
      if (moving.size === 1) requestAnimationFrame(advance);
    }
    refreshers.forEach(refresh => refresh());
  }
  function advance(now) {
    if (!moving.size) return;
    for (const { code, i, d, since, phase, period } of moving.values()) {
      const angle = phase + (2 * Math.PI * (now - since)) / period;
      state.values[i][d] = middle(code) + ((code.high - code.low) / 2) * Math.sin(angle);
    }
    changed();
    requestAnimationFrame(advance);
  }
  function play() {
    if (turn || moving.size) { clearInterval(turn); turn = 0; moving.clear(); }
    else if (dims.length) dims.forEach(({ i, d }) => toggle(i, d));
    else turn = setInterval(() => { const i = Math.max(0, first); state.values[i] = (state.values[i] + 1) % (facts.codes[i].n || 2); changed(); }, 700);
    refreshers.forEach(refresh => refresh());
  }
  refreshers.push(() => {
    const on = moving.size > 0 || turn !== 0;
    $('play').setAttribute('aria-pressed', on);
    $('play').textContent = on ? 'Stop' : 'Play';
  });

  // Noise

  const newNoise = () => { state.row = (state.row + 1) % 2 ** 32; changed(); };
  const newSample = () => { state.row = (state.row + 1) % 2 ** 32; state.values = drawOf(state.row).values.map(v => (Array.isArray(v) ? [...v] : v)); changed(); };
  $('new-noise').addEventListener('click', newNoise);
  $('new-sample').addEventListener('click', newSample);
  $('play').addEventListener('click', play);
  for (const name of ['seed', 'row', 'rows']) {
    const input = $(name);
    input.addEventListener('change', () => {
      const n = wholeNumber(input.value, +input.min, +input.max);
      if (n !== null) {
        state[name] = n;
        if (name === 'seed') { state.row = 0; state.values = drawnCodes(0).map(v => (Array.isArray(v) ? [...v] : v)); }
        if (name === 'rows') layGrid();
      }
      changed();
    });
    refreshers.push(() => { input.value = state[name]; });
  }

  // Grid

  for (const target of targets) $('columns').append(el('option', { value: target.key, textContent: capital(target.title) }));
  $('columns').addEventListener('change', () => { state.columns = $('columns').value; layGrid(); changed(); });
  $('own').addEventListener('change', () => { state.own = $('own').checked; changed(); });
  refreshers.push(() => { $('columns').value = state.columns; $('own').checked = state.own; });
  function layGrid() {
    const grid = $('grid'), target = targets.find(t => t.key === state.columns);
    const values = target.code.dim ? latents.traversal(target.code) : order(target.code);
    const heads = values.map(v => (target.code.dim ? (target.code.kind === 'angle' ? `${short(Math.round((v * 180) / Math.PI))}°` : signed(v, 1)) : heading(target.code, v)));
    grid.style.setProperty('--columns', values.length);
    const headers = heads.map(text => el('div', { role: 'columnheader', textContent: text }));
    grid.replaceChildren(el('div', { role: 'row' }, ...headers));
    const cells = [];
    gridRefresh.length = 0;
    for (let r = 0; r < state.rows; r++) {
      const line = el('div', { role: 'row' });
      values.forEach((value, column) => {
        const canvas = el('canvas', { width, height });
        const cell = el('div', { role: 'gridcell', className: 'cell', tabIndex: r + column ? -1 : 0 }, canvas);
        cell.setAttribute('aria-label', `row ${r + 1}, ${target.title} ${heads[column]}`);
        const rowOf = () => (state.row + r) % 2 ** 32;
        const latentValues = () => withValue(state.own ? drawnCodes(rowOf()) : state.values, target, value);
        const choose = () => { state.values = latentValues(); state.row = rowOf(); moving.clear(); changed(); };
        cell.addEventListener('click', choose);
        cell.addEventListener('keydown', event => {
          const next = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
          if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); choose(); }
          const to = next && cells[r + next[0]]?.[column + next[1]];
          if (to) { event.preventDefault(); cell.tabIndex = -1; to.tabIndex = 0; to.focus(); }
        });
        (cells[r] ||= []).push(cell);
        line.append(cell);
        gridJobs[r * values.length + column] = { canvas, latent: () => latents.assemble(facts, drawOf(rowOf()).noise, latentValues()) };
        const now = () => !state.own && r === 0 && (target.code.dim
          ? Math.abs(state.values[target.i][target.d] - value) < (target.code.high - target.code.low) / 1000 : state.values[target.i] === value);
        gridRefresh.push(() => cell.classList.toggle('now', now()));
        if (r === 0) gridRefresh.push(() => headers[column].classList.toggle('now', now()));
      });
      grid.append(line);
    }
    gridJobs.length = state.rows * values.length;
    small = [...thumbs, ...gridJobs];
    cursor = 0;
  }
  const gridJobs = [], gridRefresh = [];
  refreshers.push(() => {
    gridRefresh.forEach(refresh => refresh());
    $('grid-hint').textContent = state.own
      ? `As fastinfogan sample --seed ${state.seed}${state.row ? `, from row ${state.row} on` : ''}: each row has the codes that were drawn with its noise.`
      : 'Rows differ in noise alone; all other codes are those set above. Choose a picture to go there.';
  });

  // Copies

  async function copy(button, text) {
    try { await navigator.clipboard.writeText(text); } catch {
      const area = el('textarea', { value: text });
      document.body.append(area); area.select(); document.execCommand('copy'); area.remove();
    }
    const before = button.textContent;
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = before; }, 1200);
  }
  const asJson = () => JSON.stringify({ seed: state.seed, row: state.row,
    codes: Object.fromEntries(facts.codes.map((code, i) => [code.name, state.values[i]])), latent: Array.from(currentLatent()) });
  page.json = asJson;
  $('copy-link').addEventListener('click', () => { writeAddress(); copy($('copy-link'), location.href); });
  $('copy-latent').addEventListener('click', () => copy($('copy-latent'), asJson()));

  // Reading a picture

  const pad = $('read-picture'), ink = pad.getContext('2d', { willReadFrequently: true });
  const clear = () => { pad.width = width; pad.height = height; ink.fillStyle = '#000'; ink.fillRect(0, 0, width, height); };
  function padPixels() {
    const data = ink.getImageData(0, 0, width, height).data, plane = width * height, out = new Float32Array(channels * plane);
    for (let p = 0; p < plane; p++) {
      const rgb = [data[4 * p], data[4 * p + 1], data[4 * p + 2]];
      const gray = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
      for (let c = 0; c < channels; c++) out[c * plane + p] = low + ((channels === 3 ? rgb[c] : gray) / 255) * (high - low);
    }
    return out;
  }
  async function read() {
    try {
      reader ||= await open('reader');
      const output = await reader.run({ images: new ort.Tensor('float32', padPixels(), [1, channels, height, width]) });
      page.lastReading = Object.fromEntries(facts.codes.map(code => [code.name, Array.from(output[code.name].data)]));
      showReading(page.lastReading);
    } catch (error) { $('reading').replaceChildren(el('p', { className: 'hint', textContent: `The picture cannot be read: ${error}` })); }
  }
  function showReading(reading) {
    const parts = [];
    const values = facts.codes.map((code, i) => {
      const got = reading[code.name];
      if (code.kind === 'bernoulli') {
        parts.push(el('div', { className: 'title' }, el('b', { textContent: capital(titleOf(code)) }), el('small', { textContent: `on with probability ${(100 * got[0]).toFixed(0)} %` })));
        return +(got[0] >= 0.5);
      }
      if (code.dim) {
        code.dims.forEach((dim, d) => {
          const text = code.kind === 'angle' ? `${signed((got[d] * 180) / Math.PI, 0)}°` : signed(got[d]);
          const title = titleOf(dim);
          parts.push(el('div', { className: 'title' }, el('b', { textContent: capital(title) }), el('small', { textContent: text })));
        });
        return got.map(x => Math.min(code.high, Math.max(code.low, x)));
      }
      const best = got.indexOf(Math.max(...got));
      const bars = el('div', { className: 'bars' });
      for (const k of order(code)) bars.append(el('span', { textContent: heading(code, k) }), el('div', {}, el('i', { style: `width: ${(100 * got[k]).toFixed(1)}%` })), el('em', { textContent: `${(100 * got[k]).toFixed(got[k] < 0.995 && got[k] >= 0.0005 ? 1 : 0)} %` }));
      const what = code.labels ? (code.labels[best] === null ? 'a category without a label' : '') : `${titleOf(code)} `;
      parts.push(el('p', { className: 'answer' }, code.labels ? 'Read as ' : '', what, el('b', { textContent: code.labels && code.labels[best] === null ? '' : heading(code, best) }), `, ${(100 * got[best]).toFixed(0)} % sure`), bars);
      return best;
    });
    const show = el('button', { type: 'button', textContent: 'Set the controls to this code' });
    show.addEventListener('click', () => { moving.clear(); state.values = values; changed(); });
    $('reading').replaceChildren(...parts, show);
  }
  async function readFile(file) {
    if (!file) return;
    try {
      const bitmap = await createImageBitmap(file);
      pad.width = width; pad.height = height;
      const side = Math.min(bitmap.width, bitmap.height);
      ink.imageSmoothingQuality = 'high';
      ink.drawImage(bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, width, height);
      if ($('invert').checked) flip();
      await read();
    } catch { $('reading').replaceChildren(el('p', { className: 'hint', textContent: 'This file is not a picture that the browser can open.' })); }
  }
  page.readFile = readFile;
  function flip() { ink.globalCompositeOperation = 'difference'; ink.fillStyle = '#fff'; ink.fillRect(0, 0, width, height); ink.globalCompositeOperation = 'source-over'; }
  if ($('part-reader')) {
    $('reader').hidden = false;
    clear();
    let last = null;
    const at = event => { const box = pad.getBoundingClientRect(); return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height]; };
    const stroke = (from, to) => {
      ink.strokeStyle = '#fff'; ink.lineWidth = width * 0.085; ink.lineCap = 'round';
      ink.beginPath(); ink.moveTo(...from); ink.lineTo(to[0] + 0.01, to[1]); ink.stroke();
    };
    pad.addEventListener('pointerdown', event => { pad.setPointerCapture(event.pointerId); last = at(event); stroke(last, last); });
    pad.addEventListener('pointermove', event => { if (last) { const to = at(event); stroke(last, to); last = to; } });
    pad.addEventListener('pointerup', () => { last = null; read(); });
    $('clear').addEventListener('click', () => { clear(); $('reading').replaceChildren(el('p', { className: 'hint', textContent: 'Draw in the square, or drop or paste a picture anywhere on this page.' })); });
    $('choose').addEventListener('click', () => $('file').click());
    $('file').addEventListener('change', () => { readFile($('file').files[0]); $('file').value = ''; });
    $('read-shown').addEventListener('click', () => { pad.width = width; pad.height = height; ink.drawImage($('picture'), 0, 0); read(); });
    $('invert').addEventListener('change', () => { flip(); read(); });
    const dropped = event => [...(event.dataTransfer?.items || [])].some(item => item.kind === 'file');
    addEventListener('dragover', event => { if (dropped(event)) { event.preventDefault(); $('drop').hidden = false; } });
    addEventListener('dragleave', event => { if (!event.relatedTarget) $('drop').hidden = true; });
    addEventListener('drop', event => { $('drop').hidden = true; if (event.dataTransfer.files.length) { event.preventDefault(); readFile(event.dataTransfer.files[0]); } });
    addEventListener('paste', event => { const file = event.clipboardData?.files[0]; if (file) readFile(file); });
  }

  addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input[type=number], select, textarea')) return;
    const action = { n: newNoise, s: newSample, p: play }[event.key.toLowerCase()];
    if (action) { event.preventDefault(); action(); }
  });
  addEventListener('hashchange', () => { readAddress(); layGrid(); changed(); });

  const kinds = facts.codes.map(code => (code.kind === 'categorical' ? `${code.n} categories` : code.dim > 1 ? `${code.dim} × ${code.kind}` : code.kind));
  $('facts').textContent = `InfoGAN · ${facts.step.toLocaleString('en')} updates · ${width}×${height}${channels === 3 ? ' colour' : ''} · code: ${kinds.join(', ')}`;
  $('made').textContent = `Made with fastinfogan ${facts.versions.fastinfogan || ''} · runs in this browser by ONNX Runtime Web, offline`;
  readAddress();
  layGrid();
  page.loadMs = performance.now() - started;
  changed();
  page.ready = true;
})().catch(error => {
  const status = document.getElementById('status');
  window.explorer = { failed: String(error) };
  status.textContent = `This page cannot start: ${error}. Try a current Chromium, Firefox or Safari.`;
  status.className = 'failed';
});

'use strict';
// The rows of LatentSpec.sample in JavaScript: Philox4x32-10 and the code distributions, as in
// fastinfogan/philox.py and fastinfogan/latents. Words and classes are equal, floats to rounding.
const latents = (() => {
  const SAMPLES = 3; // philox.Stream.SAMPLES
  const f32 = Math.fround;

  // The upper 32 bits of the product of two unsigned 32-bit numbers.
  function mulHigh(a, b) {
    const aLow = a & 0xffff, aHigh = a >>> 16, bLow = b & 0xffff, bHigh = b >>> 16;
    const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
    const carry = (middle & 0xffff) + aLow * bHigh;
    return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(carry / 65536)) >>> 0;
  }

  function philox4x32(counter, key) {
    let [c0, c1, c2, c3] = counter, [k0, k1] = key;
    for (let round = 0; round < 10; round++) {
      const high0 = mulHigh(0xd2511f53, c0), low0 = Math.imul(0xd2511f53, c0) >>> 0;
      const high1 = mulHigh(0xcd9e8d57, c2), low1 = Math.imul(0xcd9e8d57, c2) >>> 0;
      [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
      k0 = (k0 + 0x9e3779b9) >>> 0;
      k1 = (k1 + 0xbb67ae85) >>> 0;
    }
    return [c0, c1, c2, c3];
  }

  // Words of one row at (seed, stream SAMPLES, step 0, row).
  function words(count, seed, row) {
    const key = [seed % 2 ** 32 >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
    const out = [];
    for (let block = 0; out.length < count; block++) out.push(...philox4x32([row >>> 0, block, 0, SAMPLES], key));
    return out.slice(0, count);
  }

  const uniform = word => (word >>> 8) * 2 ** -24;

  // Box–Muller on pairs of words, in fp32.
  function normal(words) {
    const out = [];
    for (let i = 0; i < words.length; i += 2) {
      const radius = f32(Math.sqrt(f32(-2 * f32(Math.log(f32(uniform(words[i]) + 2 ** -24))))));
      const angle = f32(uniform(words[i + 1]) * f32(2 * Math.PI));
      out.push(f32(radius * f32(Math.cos(angle))), f32(radius * f32(Math.sin(angle))));
    }
    return out;
  }

  const even = n => n + (n % 2);
  const isContinuous = code => code.dim !== undefined;

  // Noise and code values of one row of LatentSpec.sample(seed=seed). A value is a class, 0 or 1,
  // or an array of a continuous code's dims.
  function sample(facts, seed, row) {
    const noiseWidth = even(facts.spec.noise);
    const widths = facts.codes.map(code => (code.kind === 'gaussian' ? even(code.dim) : code.dim || 1));
    const all = words(widths.reduce((sum, width) => sum + width, noiseWidth), seed, row);
    const noise = normal(all.slice(0, noiseWidth)).slice(0, facts.spec.noise);
    let at = noiseWidth;
    const values = facts.codes.map((code, i) => {
      const part = all.slice(at, (at += widths[i]));
      if (code.kind === 'bernoulli') return part[0] < code.threshold ? 1 : 0;
      if (code.kind === 'categorical') {
        if (!code.thresholds) return mulHigh(part[0], code.n);
        let k = 0;
        while (part[0] >= code.thresholds[k + 1]) k++;
        return k;
      }
      const drawn = code.kind === 'gaussian' ? normal(part).slice(0, code.dim) : part.map(uniform);
      return drawn.map(x => f32(f32(x * f32(code.scale)) + f32(code.shift)));
    });
    return { noise, values };
  }

  // G's input, [noise | codes in their order], of noise and one value per code.
  function assemble(facts, noise, values) {
    const columns = [...noise];
    facts.codes.forEach((code, i) => {
      const value = values[i];
      if (code.kind === 'categorical') for (let k = 0; k < code.n; k++) columns.push(k === value ? 1 : 0);
      else if (code.kind === 'bernoulli') columns.push(value);
      else if (code.kind === 'angle') columns.push(f32(Math.cos(f32(value[0]))), f32(Math.sin(f32(value[0]))));
      else columns.push(...value);
    });
    return Float32Array.from(columns);
  }

  // The values of a traversal, as LatentSpec.traverse has them (torch.linspace in fp32).
  function traversal(code, steps = 10) {
    if (!isContinuous(code)) return Array.from({ length: code.kind === 'bernoulli' ? 2 : code.n }, (_, k) => k);
    const low = f32(code.low), high = f32(code.high);
    const points = code.kind === 'angle' ? steps + 1 : steps;
    const step = f32(f32(high - low) / (points - 1));
    return Array.from({ length: steps }, (_, k) =>
      k < points / 2 ? f32(low + f32(step * k)) : f32(high - f32(step * (points - 1 - k))));
  }

  return { philox4x32, words, sample, assemble, traversal, isContinuous };
})();
if (typeof module !== 'undefined') module.exports = latents;

// Drive a page that `fastinfogan explore` wrote, in Chromium; print what happened as JSON.
// Arguments: the page's address, the browser, a picture to read, the screenshots' path without its end.
const { chromium } = require('playwright-core');

const FLAGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
const [address, executablePath, picture, screenshots] = process.argv.slice(2);
const TIMEOUT = 240000;

(async () => {
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT);
  const result = { console: [], requests: [], steps: {} };
  page.on('console', message => result.console.push(`${message.type()}: ${message.text()}`));
  page.on('pageerror', error => result.console.push(`error: ${error.message}`));
  page.on('request', request => result.requests.push(request.url()));
  const settle = () => page.waitForFunction(
    () => window.explorer && (explorer.failed || (explorer.ready && explorer.settled)), null, { timeout: TIMEOUT });
  const observe = () => page.evaluate(() => ({ input: explorer.lastInput, output: explorer.lastOutput, json: JSON.parse(explorer.json()) }));

  await page.goto(address);
  await settle();
  result.failed = await page.evaluate(() => explorer.failed || null);
  if (result.failed) throw new Error(result.failed);
  result.start = await observe();
  result.status = await page.locator('#status').textContent();

  // Each control, by its role and name.
  const controls = await page.evaluate(() => explorer.facts.codes.map(code => [code.name, code.kind]));
  async function step(name, action) {
    await action();
    await settle();
    result.steps[name] = await observe();
  }
  const sliders = await page.getByRole('slider').count();
  for (let i = 0; i < sliders; i++) {
    const slider = page.getByRole('slider').nth(i);
    await step(`slider ${await slider.getAttribute('aria-label')}`, async () => {
      await slider.focus();
      for (let k = 0; k < 40; k++) await page.keyboard.press('ArrowRight');
    });
  }
  for (const [name, kind] of controls) {
    if (kind === 'categorical') await step(`category ${name}`, () => page.locator(`input[name="${name}"]`).last().check());
    if (kind === 'bernoulli') await step(`switch ${name}`, () => page.locator(`input[name="${name}"]`).check());
  }
  await step('New noise', () => page.getByRole('button', { name: 'New noise' }).click());
  await step('New sample', () => page.getByRole('button', { name: 'New sample' }).click());
  await step('key n', async () => { await page.locator('h1').click(); await page.keyboard.press('n'); });
  await step('grid cell', () => page.getByRole('gridcell').nth(1).click());
  await page.getByRole('button', { name: 'Play', exact: true }).click();
  await page.waitForTimeout(500);
  await step('play', () => page.getByRole('button', { name: 'Stop' }).click());
  await step('seed', async () => { await page.getByLabel('Seed').fill('3'); await page.getByLabel('Seed').press('Enter'); });

  // The grid of seed 3 with the codes as drawn, for each choice of columns.
  await page.getByLabel('Rows').fill('5');
  await page.getByLabel('Rows').press('Enter');
  await page.getByLabel('Codes as drawn, row by row').check();
  result.grids = {};
  for (const key of await page.locator('#columns option').evaluateAll(options => options.map(o => o.value))) {
    await page.getByLabel('Columns').selectOption(key);
    await settle();
    result.grids[key] = await page.evaluate(() => [...document.querySelectorAll('.cell canvas')].map(
      canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)));
  }
  result.headings = await page.evaluate(() => [...document.querySelectorAll('[role=columnheader]')].map(h => h.textContent));

  // Reading a picture from a file.
  await page.locator('#file').setInputFiles(picture);
  await page.waitForFunction(() => explorer.lastReading);
  result.reading = await page.evaluate(() => explorer.lastReading);
  await page.getByRole('button', { name: 'Set the controls to this code' }).click();
  await settle();
  result.afterReading = await observe();

  // The address opens the same state.
  await page.waitForTimeout(300);
  const link = page.url();
  await page.evaluate(() => { location.hash = ''; });
  await settle();
  await page.evaluate(hash => { location.hash = hash; }, new URL(link).hash);
  await settle();
  result.link = link;
  result.fromLink = await observe();

  // Each control has a name for a screen reader; nothing is wider than a phone.
  result.unnamed = await page.evaluate(() => [...document.querySelectorAll('button, input, select, [role=img], [role=gridcell]')]
    .filter(node => !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.[0]?.textContent.trim())).map(node => node.outerHTML.slice(0, 120)));
  for (const [width, scheme] of [[1280, 'light'], [390, 'light'], [1280, 'dark']]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height: 900 });
    result[`overflow ${width}`] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await page.screenshot({ path: `${screenshots}-${width}-${scheme}.png`, fullPage: true });
  }
  await browser.close();
  console.log(JSON.stringify(result));
})().catch(error => { console.error(error); process.exit(1); });

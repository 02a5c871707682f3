// Photograph a page of `fastinfogan explore` twice: its grid, then the reading of a picture.
// Arguments: the page's address, the browser, and the two files to write. See pictures.py.
const { chromium } = require('playwright-core');

const FLAGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
const [address, executablePath, grid, reading] = process.argv.slice(2);
const timeout = 240000;

(async () => {
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(timeout);
  const settle = () => page.waitForFunction(
    () => window.explorer && (explorer.failed || (explorer.ready && explorer.settled)), null, { timeout });

  await page.goto(address);
  await settle();
  const failed = await page.evaluate(() => explorer.failed || null);
  if (failed) throw new Error(failed);
  // The status line has times of this machine, which the picture shall not show.
  await page.evaluate(() => { document.querySelector('#status').textContent = ''; });
  const clip = (from, to) => page.evaluate(([from, to]) => {
    const first = document.querySelector(from).getBoundingClientRect();
    const last = document.querySelector(to).getBoundingClientRect();
    const top = Math.max(first.top + scrollY - 16, 0);
    return { x: last.left - 16, y: top, width: last.width + 32, height: last.bottom + scrollY + 16 - top };
  }, [from, to]);
  await page.screenshot({ path: grid, fullPage: true, clip: await clip('h1', 'section:has(#grid)') });

  // Move the first slider, show its code along the rows, and read the generated picture.
  const slider = page.getByRole('slider').first();
  if (await slider.count()) {
    await slider.focus();
    for (let k = 0; k < 60; k++) await page.keyboard.press('ArrowRight');
    const columns = await page.locator('#columns option').evaluateAll(options => options.map(o => o.value));
    await page.getByLabel('Columns').selectOption(columns[1] || columns[0]);
    await settle();
  }
  await page.getByRole('button', { name: 'Read the generated one' }).click();
  await page.waitForFunction(() => explorer.lastReading);
  await page.evaluate(() => { document.querySelector('#status').textContent = ''; });
  await page.screenshot({ path: reading, fullPage: true, clip: await clip('#codes', '#reader') });
  await browser.close();
})().catch(error => { console.error(error); process.exit(1); });

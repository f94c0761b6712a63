// Headless Chromium, driven by lines: pages have names, elements are found by Playwright's selectors.
import { chromium } from 'playwright-core';
import { say, serve } from './lines.mjs';

const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: flags });
const pages = new Map();
const timeout = 60_000;

serve({
  // open opens a page in a context of its own: nothing is shared with the other pages. clock: its time can be moved on.
  async open({ page: name, url, width, height, dark, clock }) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? 'dark' : 'light', locale: 'en-GB', timezoneId: 'UTC' });
    const page = await context.newPage();
    page.setDefaultTimeout(timeout);
    page.on('console', m => { if (m.type() === 'error') say({ event: 'console', page: name, text: m.text() }); });
    page.on('pageerror', e => say({ event: 'pageerror', page: name, text: String(e.stack ?? e) }));
    pages.set(name, page);
    if (clock) await page.clock.install();
    await page.goto(url);
  },
  fill: ({ page, selector, text }) => pages.get(page).fill(selector, text),
  press: ({ page, selector, key }) => pages.get(page).press(selector, key),
  // keys presses keys one after another, wherever the focus is: names such as Tab, or {"text"} to type.
  async keys({ page, keys }) {
    for (const key of keys) await (key.text ? pages.get(page).keyboard.type(key.text) : pages.get(page).keyboard.press(key));
  },
  click: ({ page, selector }) => pages.get(page).click(selector),
  // shows waits until an element that matches selector shows text.
  shows: async ({ page, selector, text }) => { await pages.get(page).locator(selector, { hasText: text }).first().waitFor(); },
  // gone waits until no element that matches selector and shows text is left.
  gone: async ({ page, selector, text }) => { await pages.get(page).locator(selector, { hasText: text }).first().waitFor({ state: 'detached' }); },
  forward: ({ page, seconds }) => pages.get(page).clock.fastForward(seconds * 1000),
  texts: async ({ page, selector }) => ({ texts: await pages.get(page).locator(selector).allTextContents() }),
  value: async ({ page, selector }) => ({ texts: [await pages.get(page).inputValue(selector)] }),
  focused: async ({ page }) => ({ texts: [await pages.get(page).evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.tagName)] }),
  screenshot: async ({ page, path }) => { await pages.get(page).screenshot({ path }); },
  close: async ({ page }) => { await pages.get(page).context().close(); },
});
say({ event: 'ready' });

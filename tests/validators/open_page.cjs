// Opens a page over file:// in Chromium, and prints what happened: node open_page.cjs FILE [PICTURES]
const { chromium } = require("playwright-core");

(async () => {
  const [file, pictures] = process.argv.slice(2);
  const args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args });
  const found = { messages: [], requests: [], widths: {} };
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1200, 360]) {
      const page = await browser.newPage({ viewport: { width, height: 800 }, colorScheme });
      page.on("console", (message) => found.messages.push(message.text()));
      page.on("pageerror", (error) => found.messages.push(String(error)));
      page.on("request", (request) => found.requests.push(request.url()));
      await page.goto(`file://${file}`);
      await page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));
      found.widths[`${colorScheme} ${width}`] = await page.evaluate(() => document.documentElement.scrollWidth);
      found.title = await page.title();
      found.scripts = await page.evaluate(() => document.querySelectorAll("script, img, iframe, link, object").length);
      found.clashes = await page.evaluate(() => document.querySelectorAll(".clash").length);
      await page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = false)));
      if (pictures) await page.screenshot({ path: `${pictures}-${width}-${colorScheme}.png`, fullPage: true });
      if (pictures && width === 1200 && colorScheme === "light") await page.pdf({ path: `${pictures}.pdf`, format: "A4" });
      await page.close();
    }
  }
  await browser.close();
  console.log(JSON.stringify(found));
})();

"""Chromium, as people look at the console with it, and what it has to say against a page.

``open_browser()`` starts Debian's Chromium without a window; `Browser` drives it by what a person sees: links and
buttons by their words. Before any script of a page runs, a listener is put into it that keeps each violation of the
page's policy where the next page finds it again; the browser's own log has them too, beside all that a script raised.
`Browser.look` judges a page by rules that need a page laid out: they are in ``tests/browser_rules.js``.
"""

import base64
import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import attrs
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

WAIT_S_MAX = 120.0
RULES = Path(__file__).with_name("browser_rules.js").read_text()
AXE = resources.files("axe_core_python").joinpath("axe.min.js").read_text()
"""axe-core: what who can't see, or uses no mouse, would stumble over. Contrast is judged by day and by night."""
AXE_RUN = """
const done = arguments[0];
axe.run(document, {resultTypes: ["violations"]}).then(
  ({violations}) => done(violations.flatMap(({id, nodes}) => nodes.map(({html}) => `${id}: ${html.slice(0, 200)}`))),
  (error) => done([`axe itself failed: ${error}`]));
"""
VIOLATIONS = "tests-violations"
LISTENER = f"""
addEventListener("securitypolicyviolation", (event) => {{
  const seen = JSON.parse(sessionStorage.getItem("{VIOLATIONS}") ?? "[]");
  seen.push(`${{event.effectiveDirective}} ${{event.blockedURI}} on ${{location.pathname}}`);
  sessionStorage.setItem("{VIOLATIONS}", JSON.stringify(seen));
}});
"""
LOOKS = [(width, height, light) for width, height in ((1280, 800), (390, 844)) for light in ("light", "dark")]
"""A desk and a phone, by day and by night."""


GONE = "Node with given id does not belong to the document"


class Chrome(webdriver.Chrome):
    """Says in one way that an element is gone.

    ChromeDriver has a second one, an unknown error, where the page changes while it looks the element up.
    """

    def execute(self, driver_command: Any, params: dict[str, Any] | None = None) -> Any:
        """Have a command done, those of elements too; raises `StaleElementReferenceException` for `GONE`."""
        try:
            return super().execute(driver_command, params)
        except WebDriverException as error:
            if GONE in (error.msg or ""):
                raise StaleElementReferenceException(error.msg, error.screen, error.stacktrace) from error
            raise


@attrs.frozen
class Browser:
    """A running Chromium with one tab."""

    driver: webdriver.Chrome

    def go(self, address: str) -> None:
        """Open an address, as if it were typed."""
        self.driver.get(address)

    def click(self, words: str, within: str = "body") -> None:
        """Click the one link, button or summary that is called so, or has a line that reads so."""

        def is_clicked() -> bool:  # In one go: what was found may be drawn anew before it is clicked.
            found = self._find(words, within)
            if not found:
                return False
            (one,) = found
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", one)
            one.click()
            return True

        self.wait(is_clicked, f"something called {words!r}")

    def click_first(self, selector: str) -> None:
        """Click the first of what a CSS selector finds."""

        def is_clicked() -> bool:
            found = self.driver.find_elements(By.CSS_SELECTOR, selector)
            for one in found[:1]:
                one.click()
            return bool(found)

        self.wait(is_clicked, selector)

    def type(self, label: str, text: str) -> None:
        """Put text into the field that has this label."""

        def is_typed() -> bool:
            fields = self.driver.find_elements(By.XPATH, f"//input[@id=//label[normalize-space()='{label}']/@for]")
            if not fields:
                return False
            (field,) = fields
            field.clear()
            field.send_keys(text)
            return True

        self.wait(is_typed, f"field called {label!r}")

    def press(self, key: str) -> None:
        """Press a key, wherever the page has its focus."""

        def is_pressed() -> bool:
            self.driver.switch_to.active_element.send_keys(key)
            return True

        self.wait(is_pressed, f"place for the key {key!r}")

    def copy(self, words: str) -> str:
        """Press a button that copies; return what came into the clipboard."""
        origin = self.driver.execute_script("return location.origin")
        # What is granted takes away what is not: pages may write by themselves, and only a grant has them read.
        granted = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self._command("Browser.grantPermissions", origin=origin, permissions=granted)
        self.driver.execute_script("document.getElementById('said').textContent = ''")
        self.click(words)
        self.wait_for("copied", "#said")
        copied: str = self.driver.execute_async_script(
            "const done = arguments[0]; navigator.clipboard.readText().then(done, (error) => done(`${error}`))"
        )
        return copied

    def text(self, selector: str = "main") -> str:
        """What is to be seen of elements, as it is seen. An XPath begins with ``//``; all else is a CSS selector."""
        by = By.XPATH if selector.startswith("//") else By.CSS_SELECTOR
        while True:
            with contextlib.suppress(StaleElementReferenceException):  # It was drawn anew while we read.
                return "\n".join(found.text for found in self.driver.find_elements(by, selector))

    def wait_for(self, words: str, selector: str = "main") -> None:
        """Wait until words are to be seen."""
        self.wait(lambda: words in self.text(selector), f"{words!r}")

    def wait(self, is_so: Callable[[], bool], wanted: str) -> None:
        """Wait until something is so, also across a change of pages."""
        try:
            waiting = WebDriverWait(self.driver, WAIT_S_MAX, 0.1, [StaleElementReferenceException])
            waiting.until(lambda _: is_so())
        except TimeoutException:
            raise AssertionError(f"no {wanted} on {self.driver.current_url}:\n{self.text('body')}") from None

    def look(self, folder: Path, name: str) -> None:
        """Judge the page as it is, at a desk and on a phone, light and dark; keep a picture of each."""
        wrong = []
        self.driver.execute_script(AXE)
        for width, height, light in LOOKS:
            self._command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                          mobile=width < 600)  # fmt: skip
            self._command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": light}])
            found = [*self.driver.execute_script(RULES, width), *self.driver.execute_async_script(AXE_RUN)]
            wrong += [f"{name}, {width} px, {light}: {one}" for one in found]
            picture = self._command("Page.captureScreenshot", format="png", optimizeForSpeed=True)
            (folder / f"{name}-{width}-{light}.png").write_bytes(base64.b64decode(picture["data"]))
        self._command("Emulation.clearDeviceMetricsOverride")
        assert not wrong, "\n".join(wrong)

    def take_complaints(self) -> list[str]:
        """Return what pages did against their policy, and what stands in the browser's log, since the last time."""
        kept = self.driver.execute_script(
            f"const kept = sessionStorage.getItem('{VIOLATIONS}'); sessionStorage.removeItem('{VIOLATIONS}');"
            "return kept ?? '[]'"
        )
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [*json.loads(kept), *(line["message"] for line in log)]

    def _find(self, words: str, within: str) -> list[WebElement]:
        return [
            found
            for found in self.driver.find_elements(By.CSS_SELECTOR, f"{within} :is(a, button, summary)")
            if words in found.text.split("\n")
        ]

    def _command(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium for as long as the block lasts; it reaches nothing but this machine."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        missing = " and ".join(
            name for name, path in (("chromium", chromium), ("chromedriver", chromedriver)) if path is None
        )
        pytest.fail(
            f"the console is looked at with Chromium; not on the PATH: {missing}\n"
            "  Debian: apt-get install chromium chromium-driver",
            pytrace=False,
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless=new", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking", "no-first-run",
        "disable-extensions", "disable-component-update", "no-proxy-server",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium starts as root on no other condition.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, webdriver.ChromeService(chromedriver))
    try:
        driver.set_page_load_timeout(WAIT_S_MAX)
        driver.set_script_timeout(WAIT_S_MAX)
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LISTENER})
        yield Browser(driver)
    finally:
        driver.quit()

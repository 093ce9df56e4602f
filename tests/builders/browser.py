"""Run a script in a page, in headless Chromium, and return what it found."""

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import which

CHROMIUM = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Errors are noted from the beginning; the result is sent here when the script has ended.
BEGIN = """<script>const found = { errors: [] };
window.addEventListener("error", (e) => found.errors.push(String(e.message)));
window.addEventListener("unhandledrejection", (e) => found.errors.push(String(e.reason)));
</script>"""
END = """<script>(async () => {
const until = async (ready) => { while (!ready()) await new Promise((r) => setTimeout(r, 20)); };
try { found.result = await (async () => { %s })(); } catch (e) { found.errors.push(e.stack); }
const sent = { method: "POST", mode: "no-cors", body: JSON.stringify(found) };
await fetch("http://127.0.0.1:%d/", sent);
})();</script>"""


def with_script(page, script, port):
    """Return a page in which a script runs, the body of an async function."""
    page = page.replace("<head>", f"<head>{BEGIN}", 1)
    return page.replace("</body>", END % (script, port) + "</body>", 1)


def run_in_browser(path: Path, script, url=None, options=(), timeout=60):
    """Open a page with a script; return {"errors": texts, "result": what the script returned}.

    Parameters
    ----------
    path
        The page; it is written again with the script. The script can `await until(condition)`.
    url
        Its address; None: that of the file.
    options
        Of Chromium.
    """
    received = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.timeout = timeout
        opened = path.with_name("tested.html")
        page = path.read_text(encoding="utf-8")
        opened.write_text(with_script(page, script, server.server_port), encoding="utf-8")
        command = [
            *(CHROMIUM, "--headless", "--no-sandbox", "--enable-unsafe-swiftshader", *options),
            *("--window-size=1000,900", f"--user-data-dir={path.parent / 'browser'}"),
            url or opened.as_uri(),
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        browser = subprocess.Popen(command, **quiet)
        waiting = threading.Thread(target=server.handle_request)
        waiting.start()
        waiting.join(timeout)
        browser.terminate()
        browser.wait()
    assert received, f"the page sent nothing within {timeout} s"
    return json.loads(received[0])

"""Takes the pictures of the web pages in docs/pictures: `make pictures`.

It starts the service in a folder of its own, trains the example of the Japanese Vowels in a few ways, a forecast of the
sea, and a small search. Then it looks at the pages with Chromium. So the pictures show what the service has now; take
them again after a change of the pages.
"""

from __future__ import annotations

import base64
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from loopline import Client, Job  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

from benchmarks.start import service  # noqa: E402
from services.training.spec import loads  # noqa: E402
from tests import browsing  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"
WIDTH, HEIGHT = 1120, 720
COLOURS = 128
"""Of a picture: one byte a pixel, and few enough that it packs well."""
PIXELS = """async (png) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, image.width, image.height).data;
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return [image.width, image.height, btoa(text)];
}"""


class Shown:
    """What the service has to show."""

    running: Job

    def __init__(self, client: Client, url: str) -> None:
        self.client, self.url = client, url

    def train(self) -> None:
        """Makes a data set, three jobs to compare, a model with two versions, a forecast, and a search."""
        self.dataset = self.client.upload(ROOT / "data" / "japanese-vowels.npz", "japanese-vowels")
        self.search = self.client.searches.submit(small_search()).wait()
        self.client.upload(ROOT / "data" / "sea.csv", "sea", schema={"target": "celsius"})
        self.jobs = [
            self.finished(vowels(name, cell, lr))
            for name, cell, lr in (("gru", "gru", 2e-3), ("lstm", "lstm", 2e-3), ("gru-slow", "gru", 2e-4))
        ]
        for job in (self.jobs[2], self.jobs[0]):
            version = self.client.models.register("speakers", job.id)
            self.client.models.promote(f"speakers@{version.version}")
        self.sea = self.finished({**example("sea"), "data": {"dataset": "sea"}})

    def finished(self, spec: dict[str, Any]) -> Job:
        return self.client.submit(spec).wait(timeout=300)

    @contextmanager
    def training(self) -> Iterator[Job]:
        """A job in the middle of its training."""
        spec = vowels("gru-wide", "gru", 2e-4)
        spec["architecture"]["hidden_size"] = 256
        spec["training"]["epochs"] = 400
        job = self.client.submit(spec)
        try:
            while job.refresh().progress.epoch < 50:
                if job.terminal:
                    raise RuntimeError(f"The job of the pictures has ended: {job.message}")
                time.sleep(0.2)
            yield job
        finally:
            job.cancel()


def ask(shown: Shown, page: Page) -> None:
    page.goto(f"{shown.url}/try?job={shown.sea.id}")
    page.get_by_role("button", name="Ask the model").click()
    expect(page.get_by_role("img", name="Forecast of ").first).to_be_visible()


PICTURES: dict[str, Callable[[Shown, Page], object]] = {
    "jobs": lambda shown, page: page.goto(f"{shown.url}/jobs"),
    "job": lambda shown, page: page.goto(f"{shown.url}/jobs/{shown.running.id}"),
    "job-dark": lambda shown, page: page.goto(f"{shown.url}/jobs/{shown.running.id}"),
    "compare": lambda shown, page: page.goto(f"{shown.url}/compare?jobs={','.join(job.id for job in shown.jobs)}"),
    "dataset": lambda shown, page: page.goto(f"{shown.url}/datasets/{shown.dataset.id}"),
    "search": lambda shown, page: page.goto(f"{shown.url}/searches/{shown.search.id}"),
    "model": lambda shown, page: page.goto(f"{shown.url}/models/speakers"),
    "try": ask,
}
"""What brings a page to what each picture shows, while a job trains."""


def example(name: str) -> dict[str, Any]:
    return loads((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))


def vowels(name: str, cell: str, lr: float) -> dict[str, Any]:
    spec = example("vowels")
    spec["name"], spec["architecture"]["cell"], spec["training"]["optimizer"]["lr"] = name, cell, lr
    return spec


def small_search() -> dict[str, Any]:
    spec = example("search")
    spec["data"]["dataset"] = "japanese-vowels"
    spec["search"]["trials"] = 16
    return spec


def indexed(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The most frequent colours of an image (height, width, 3), and the number of the nearest of them at each pixel."""
    colours, place, count = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    palette = colours[np.sort(np.argsort(-count, kind="stable")[:COLOURS])]
    far = ((colours[:, None, :].astype(np.int32) - palette[None, :, :].astype(np.int32)) ** 2).sum(axis=2)
    return palette, far.argmin(axis=1).astype(np.uint8)[place.reshape(pixels.shape[:2])]


def png_of(palette: NDArray[np.uint8], indices: NDArray[np.uint8]) -> bytes:
    """A PNG file with a palette (https://www.w3.org/TR/png-3/)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = indices.shape
    lines = np.pad(indices, ((0, 0), (1, 0))).tobytes()  # each begins with its filter, which is none
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    rest = chunk(b"PLTE", palette.tobytes()) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + rest


def packed(browser: Browser, png: bytes) -> bytes:
    """The same picture with few colours. The browser that took it reads it."""
    page = browser.new_page()
    width, height, text = page.evaluate(PIXELS, base64.b64encode(png).decode())
    page.close()
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[:, :, :3]
    return png_of(*indexed(pixels))


def take(browser: Browser, show: Callable[[Page], object], *, dark: bool) -> bytes:
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="dark" if dark else "light", locale="en-GB"
    )
    page = context.new_page()
    show(page)
    page.wait_for_load_state("load")
    page.wait_for_timeout(2500)  # a page asks for its parts one after the other, and draws when it has them
    page.mouse.move(WIDTH - 2, HEIGHT - 2)
    picture = page.screenshot(animations="disabled")
    context.close()
    return packed(browser, picture)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as (url, _), Client(url) as client:
        shown = Shown(client, url)
        shown.train()
        with sync_playwright() as playwright, shown.training() as shown.running:
            browser = playwright.chromium.launch(executable_path=browsing.FOUND, args=browsing.PLAYWRIGHT_FLAGS)
            for name, show in PICTURES.items():
                picture = take(browser, partial(show, shown), dark=name.endswith("-dark"))
                (FOLDER / f"{name}.png").write_bytes(picture)
                print(f"docs/pictures/{name}.png  {len(picture) / 1000:.0f} kB", flush=True)
            browser.close()


if __name__ == "__main__":
    main()

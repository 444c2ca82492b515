"""The base model in JavaScript says what torch says: tokens, logits, answers, with and without adapters."""

import base64
import json
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import anywidget
import pytest
import safetensors.torch
import torch
from playwright.sync_api import sync_playwright

import adapterlab as al
import chromium
import local_javascript
import vendor
from adapterlab import kit
from adapterlab.kit import text
from adapterlab.kit.widgets import asset
from adapterlab.kit.widgets.base_model import AsksBaseModel, pack_adapter
from adapterlab.kit.widgets.figure import FOLDER, Figure, bundle
from serve import serving
from widget_page import write_page

CLOSE = 1e-3  # of logits, whose size is about 10

# What a prompt never holds and a tokenizer may stumble over: other spaces, digits, marks, letters out of the alphabet.
ODD = [
    *("", " ", "  5", "a  5  b", "x\n\n y\t1", "don't we'll I'd 'tis", "<|end|>57+28=<|pad|>", "<|end|", "½ ٣ Ⅷ"),
    *("“quoted” — ‘so’…", "naïve Ångström", "日本語 12", "😀👍🏽", "\u00a0a\u2003b", "\u0085a \u0085"),
    *("\ufeffa \ufeff b", "\x00\x1c\x7f", "_a_ __", "C++;;  //", "e\u0301", " " * 40, "7" * 30),
]


# ---- the file ----------------------------------------------------------------------------------------


def test_the_file_is_small_and_always_the_same():
    data = asset.model_bytes()
    assert len(data) < 2_000_000
    program = f"import runpy, sys; sys.stdout.buffer.write(runpy.run_path({asset.__file__!r})['model_bytes']())"
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert again == data


def test_the_file_is_the_base_model():
    ours = safetensors.torch.load(asset.model_bytes())
    shipped = safetensors.torch.load_file(asset.BASE / "model.safetensors")
    assert ours.keys() == shipped.keys() and all(torch.equal(ours[name], shipped[name]) for name in ours)


@pytest.mark.parametrize(
    "file, old, new",
    [("config.json", '"silu"', '"gelu"'), ("tokenizer.json", '"use_regex": true', '"use_regex": false')],
)
def test_another_kind_of_model_is_refused(tmp_path, file, old, new):
    base = shutil.copytree(asset.BASE, tmp_path / "base")
    (base / file).write_text((base / file).read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=r"model\.js"):
        asset.model_bytes(base)


def test_the_book_gets_the_file(tmp_path):
    (tmp_path / "_static").mkdir()
    app = SimpleNamespace(outdir=str(tmp_path), builder=SimpleNamespace(format="html"))
    local_javascript.write_base_model(app, None)
    assert (tmp_path / "_static" / asset.NAME).read_bytes() == asset.model_bytes()


# ---- the browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base():
    return kit.load_base()


@pytest.fixture
def adaptable():
    """A model of one's own."""
    return kit.load_base()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page as the book has them, with the model's file and model.js beside it: (folder, address)."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(FOLDER / "model.js", folder)
    (folder / "_static").mkdir()
    (folder / "_static" / asset.NAME).write_bytes(asset.model_bytes())
    page = '<!doctype html><html lang="en"{}><link rel="icon" href="data:,"><title>page</title></html>'
    (folder / "book.html").write_text(page.format(' data-content_root="./"'))
    (folder / "elsewhere.html").write_text(page.format(""))
    with serving(folder) as address:
        yield folder, address


@pytest.fixture(scope="module")
def chrome():
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        running = playwright.chromium.launch(executable_path=chromium.find(), args=arguments)
        yield running
        running.close()


def visit(chrome, site, name: str):
    page = chrome.new_page()
    page.goto(f"{site[1]}/{name}.html")
    page.evaluate("import('./model.js').then((module) => { globalThis.js = module })")
    return page


@pytest.fixture(scope="module")
def page(chrome, site):
    """A page on which `model` is the base model, and `js` what model.js exports."""
    page = visit(chrome, site, "book")
    page.evaluate(f"js.loadModel('_static/{asset.NAME}').then((model) => {{ globalThis.model = model }})")
    return page


def ask(page, function: str, argument):
    """Through JSON text: a browser's numbers one by one would take seconds."""
    return json.loads(page.evaluate(f"async (given) => JSON.stringify(await ({function})(given))", argument))


def send_adapter(page, site, data: bytes, scale: float | None = None) -> None:
    """The page's `adapter`, from bytes as `pack_adapter` gives them."""
    (site[0] / "adapter").write_bytes(data)
    page.evaluate(
        """async (scale) => {
          const response = await fetch("adapter", { cache: "no-store" });
          globalThis.adapter = js.readAdapter(await response.arrayBuffer());
          if (scale) for (const difference of Object.values(adapter)) difference.scale = scale;
        }""",
        scale,
    )


def prompts_of(*names: str, n: int, seed: int = 7) -> list[str]:
    known = kit.SKILLS | kit.TASKS
    return [prompt for name in names for prompt, _ in known[name].examples(n, seed, held_out=True)]


def assert_same_logits(page, model, tokenizer, prompts, adapter: str = "undefined") -> None:
    rows = ask(
        page,
        f"(prompts) => prompts.map((p) => Array.from(model.logits(model.encode(p), {{ adapter: {adapter} }})))",
        prompts,
    )
    for prompt, row in zip(prompts, rows):
        with torch.no_grad():
            expected = model(**tokenizer(prompt, return_tensors="pt")).logits[0]
        found = torch.tensor(row).view_as(expected)
        assert (found - expected).abs().max() < CLOSE, prompt


def assert_same_answers(page, model, tokenizer, prompts, adapter: str = "undefined") -> list[str]:
    found = ask(page, f"(prompts) => model.answers(prompts, {{ adapter: {adapter} }})", prompts)
    assert found == [kit.answer(model, tokenizer, prompt) for prompt in prompts]
    return found


# ---- the tokenizer -----------------------------------------------------------------------------------


def random_texts(n: int) -> list[str]:
    rng = random.Random(0)
    alphabet = [*"aetSTR '.,-=+?\n", "  ", *"0123456789", "é", "“", "’", "—", "\u00a0", "\u2028", "日", "😀", "½"]
    return ["".join(rng.choices(alphabet, k=rng.randrange(1, 40))) for _ in range(n)]


@pytest.mark.browser
def test_tokens(page, base):
    excerpts = [p for name in text.EXCERPTS for held_out in (False, True) for p in text.excerpt(name, held_out)]
    assert len(excerpts) > 500
    prompts = prompts_of(*kit.SKILLS, n=20)
    texts = [*excerpts, *prompts, *ODD, *random_texts(500)]
    _, tokenizer = base
    for given, found in zip(texts, ask(page, "(texts) => texts.map((t) => model.encode(t))", texts)):
        assert found == tokenizer(given).input_ids, repr(given)


@pytest.mark.browser
def test_text_of_tokens(page, base):
    """Also of tokens in random order, whose bytes are no UTF-8."""
    _, tokenizer = base
    rng = random.Random(0)
    rows = [tokenizer(t).input_ids for t in ODD] + [rng.choices(range(len(tokenizer)), k=12) for _ in range(300)]
    for ids, found in zip(rows, ask(page, "(rows) => rows.map((ids) => model.decode(ids))", rows)):
        assert found == tokenizer.decode(ids, skip_special_tokens=True), ids


# ---- the base model ----------------------------------------------------------------------------------


@pytest.mark.browser
def test_logits(page, base):
    story = " ".join(text.excerpt("jargon", held_out=True)[:2])[:500]
    assert_same_logits(page, *base, [*prompts_of(*kit.SKILLS, "sub_neg", n=4), story])


@pytest.mark.browser
def test_answers(page, base):
    """On 16 held-out prompts of each skill."""
    assert_same_answers(page, *base, prompts_of(*kit.SKILLS, n=16))
    assert ask(page, "(p) => model.answer(p)", "57+28=") == "85"


@pytest.mark.browser
def test_the_cache_changes_nothing(page, base):
    ids = base[1](prompts_of("read", n=1)[0]).input_ids
    steps = [ids[:5], ids[5:6], ids[6:7], ids[7:]]
    pieces = ask(
        page,
        "(steps) => { const s = model.session(); return steps.flatMap((ids) => Array.from(s.append(ids))) }",
        steps,
    )
    whole = ask(page, "(ids) => Array.from(model.logits(ids))", ids)
    assert (torch.tensor(pieces) - torch.tensor(whole)).abs().max() < 1e-5
    last = ask(page, "(ids) => Array.from(model.session().append(ids, { last: true }))", ids)
    assert (torch.tensor(last) - torch.tensor(whole[-len(last) :])).abs().max() < 1e-5


@pytest.mark.browser
def test_too_long_a_text_gets_a_sentence(page):
    with pytest.raises(Exception, match="reads 256 tokens at most, not 300"):
        page.evaluate("model.logits(Array(300).fill(5))")


@pytest.mark.browser
def test_many_answers_leave_the_page_room(page):
    seen = page.evaluate(
        """async () => {
          let ticks = 0;
          const clock = setInterval(() => ticks++, 1), stop = new AbortController(), heard = [];
          const prompts = Array(60).fill("57+28=");
          const answers = await model.answers(prompts);
          clearInterval(clock);
          const onAnswer = (answer, i) => (heard.push(i), i === 20 && stop.abort());
          const stopped = await model.answers(prompts, { signal: stop.signal, onAnswer }).catch((e) => e.name);
          return { ticks, same: answers.every((a) => a === "85"), stopped, heard: heard.length };
        }"""
    )
    assert seen["ticks"] > 5 and seen["same"] and seen["stopped"] == "AbortError" and seen["heard"] < 60


# ---- adapted -----------------------------------------------------------------------------------------


@pytest.fixture(params=["lora", "dora", "hra"])
def trained(request, adaptable):
    """(variant's name, model, tokenizer) after 20 steps of reversed sums."""
    model, tokenizer = adaptable
    al.attach(model, {"lora": al.LoRA(r=6, alpha=9), "dora": al.DoRA(r=8), "hra": al.HRA(r=8)}[request.param])
    kit.train(model, tokenizer, "add_rev", steps=20, evaluate_every=20, live=False)
    return request.param, model, tokenizer


@pytest.mark.browser
def test_an_adapted_model(page, site, base, trained):
    """LoRA as A, B and scale; the others as W' and b'; all of them as pack_adapter gives them."""
    name, model, tokenizer = trained
    layers = {path: layer for path, layer in model.named_modules() if hasattr(layer, "adapter")}
    if name == "lora":
        parts = {f"{path}.{x}": layer.adapter.tensors()[f"lora_{x}"] for path, layer in layers.items() for x in "AB"}
        scale = 9 / 6
    else:
        dense = {path: al.effective_weight(layer) for path, layer in layers.items()}
        parts = {f"{path}.W": W for path, (W, _) in dense.items()}
        parts |= {f"{path}.b": b for path, (_, b) in dense.items() if b is not None}
        scale = None
    own = safetensors.torch.save({key: tensor.detach().clone().contiguous() for key, tensor in parts.items()})
    prompts = prompts_of("add_rev", "sort", "more_or_fewer", n=12)
    for data, factor in ((own, scale), (pack_adapter(model, torch.float32), None)):
        send_adapter(page, site, data, factor)
        assert_same_logits(page, model, tokenizer, prompts, "adapter")
        answers = assert_same_answers(page, model, tokenizer, prompts, "adapter")
    assert answers != [kit.answer(*base, prompt) for prompt in prompts]
    send_adapter(page, site, pack_adapter(model))
    halved = ask(page, "(prompts) => model.answers(prompts, { adapter })", prompts)
    assert sum(a == b for a, b in zip(answers, halved)) > 0.9 * len(answers)
    assert_same_answers(page, *base, prompts)  # the base model has not changed


def test_a_packed_adapter_is_small(adaptable):
    """A and B where they are fewer numbers, the dense weight where not; nothing of layers without an adapter."""
    model, _ = adaptable
    for variant, numbers in ((al.LoRA(r=4), 4 * (128 + 128)), (al.DoRA(r=4), 4 * (128 + 128) + 128)):
        with al.attach(model, variant, targets="q_proj", layers=[1]) as adapter, torch.no_grad():
            for p in adapter.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
            packed = safetensors.torch.load(pack_adapter(model))
            assert sum(tensor.numel() for tensor in packed.values()) == numbers
    with al.attach(model, al.HRA(r=128), targets="q_proj", layers=[1]) as adapter, torch.no_grad():
        for p in adapter.parameters():
            p.normal_(generator=torch.Generator().manual_seed(0))
        packed = safetensors.torch.load(pack_adapter(model))
    assert {name: tuple(tensor.shape) for name, tensor in packed.items()} == {
        "model.layers.1.self_attn.q_proj.W": (128, 128)
    }


@pytest.mark.browser
@pytest.mark.parametrize(
    "adapter, words",
    [
        ("{ 'lm_head': {} }", "no linear layer lm_head"),
        ("{ [k]: { A: new Float32Array(2 * 128), B: new Float32Array(2 * 128) } }", "does not fit .*64 x 128"),
        ("{ [k]: { W: new Float32Array(128) } }", "does not fit"),
        ("{ [k]: { rows: new Float32Array(128) } }", "does not fit"),
    ],
)
def test_a_difference_that_does_not_fit_is_refused(page, adapter, words):
    with pytest.raises(Exception, match=words):
        page.evaluate(
            f"(() => {{ const k = 'model.layers.0.self_attn.k_proj'; model.answer('1', {{ adapter: {adapter} }}) }})()"
        )


# ---- where a figure finds it -------------------------------------------------------------------------


class Asking(AsksBaseModel, anywidget.AnyWidget):
    _esm = "export default { render() {} }"


def answer_of(widget, message: dict) -> list:
    sent = []
    widget.send = lambda content, buffers=None: sent.append((content, buffers))
    widget._handle_custom_msg(message, [])
    return sent


def test_the_kernel_hands_over_the_bytes_and_does_not_store_them():
    widget = Asking()
    assert answer_of(widget, {"type": "need-model"}) == [({"type": "model"}, [asset.model_bytes()])]
    assert answer_of(widget, {"type": "other"}) == []
    assert not [value for value in widget.get_state().values() if isinstance(value, (bytes, memoryview))]


FIND = "(widget) => js.findModel(widget, { patience: 0.3 }).then((m) => m.answer('57+28='), (error) => error.message)"


@pytest.mark.browser
def test_a_page_of_the_book_fetches_the_file_once(chrome, site):
    page = visit(chrome, site, "book")
    fetched = []
    page.on("request", lambda request: fetched.append(request.url))
    assert page.evaluate(f"Promise.all([1, 2].map(() => ({FIND})()))") == ["85", "85"]
    assert fetched == [f"{site[1]}/_static/{asset.NAME}"]
    page.close()


@pytest.mark.browser
def test_without_a_network_there_is_a_sentence_and_a_second_try(chrome, site):
    page = visit(chrome, site, "book")
    page.route("**/_static/*", lambda route: route.abort())
    assert "check the network" in page.evaluate(FIND, None)
    page.unroute("**/_static/*")
    assert page.evaluate(FIND, None) == "85"
    page.close()


WIDGET = """{
  handlers: [],
  on(name, handler) { this.handlers.push(handler) },
  off(name, handler) { this.handlers = this.handlers.filter((h) => h !== handler) },
  async send(message) {
    const bytes = await (await fetch("data:;base64," + (await kernel(message)))).arrayBuffer();
    const view = new Uint8Array(bytes.byteLength + 3);  // a message's buffers start anywhere
    view.set(new Uint8Array(bytes), 3);
    for (const handler of this.handlers) handler({ type: "model" }, [new DataView(view.buffer, 3)]);
  },
}"""


@pytest.mark.browser
def test_elsewhere_the_kernel_is_asked(chrome, site):
    page = visit(chrome, site, "elsewhere")
    widget = Asking()
    page.expose_function("kernel", lambda message: base64.b64encode(answer_of(widget, message)[0][1][0]).decode())
    assert page.evaluate(f"js.findModel({WIDGET}).then((model) => model.answer('57+28='))") == "85"
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("widget", ["undefined", "{ on() {}, off() {}, send() {} }"])
def test_without_file_and_kernel_there_is_a_sentence(chrome, site, widget):
    page = visit(chrome, site, "elsewhere")
    assert page.evaluate(f"({FIND})({widget})").startswith("The base model has not come from the kernel: run this cell")
    page.close()


@pytest.mark.browser
def test_a_busy_kernel_answers_later(chrome, site):
    page = visit(chrome, site, "elsewhere")
    widget = Asking()
    page.expose_function("kernel", lambda message: base64.b64encode(answer_of(widget, message)[0][1][0]).decode())
    page.evaluate(
        f"""() => {{
          globalThis.slow = {WIDGET};
          const send = slow.send;
          slow.send = function (message) {{ globalThis.arrived = new Promise((r) => setTimeout(r, 800))
            .then(() => send.call(this, message)); slow.send = () => {{}}; }};
        }}"""
    )
    assert "run this cell" in page.evaluate(f"({FIND})(slow)")
    page.evaluate("arrived")
    assert page.evaluate(f"({FIND})(undefined)") == "85"
    page.close()


class AskingFigure(AsksBaseModel, Figure):
    _esm = (
        bundle("model.js")
        + """export default { async render({ model, el }) {
          const base = await findModel(model);
          el.append(`It says ${base.answer(model.get("data").prompt)}.`);
        } };"""
    )

    def still(self):
        return SimpleNamespace(html=lambda: "<p>the still</p>")


@pytest.mark.browser
def test_a_figure_on_a_static_page_asks_the_model(chrome, site):
    """html-manager, anywidget and one joined module, as in the built book."""
    if not vendor.is_vendored():
        if not vendor.have_npm():
            pytest.skip("npm is not installed, so there is no JavaScript to show widgets with")
        vendor.vendor()
    folder, address = site
    write_page(folder, [AskingFigure({"prompt": "57+28="})])
    index = folder / "index.html"
    index.write_text(index.read_text("utf-8").replace("<html", '<html data-content_root="./"', 1), "utf-8")
    page = chrome.new_page()
    page.goto(f"{address}/index.html")
    page.get_by_text("It says 85.").wait_for(timeout=20_000)
    page.close()

"""The report of runs: what stands in it, that it stays text, and that a browser shows it."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from config.errors import ConfigError
from tests.test_utils.test_runs.common import ANCESTOR, folders, make_run
from utils.path import write_json
from utils.runs.report import make_report, write_report
from utils.runs.table import open_runs

SAMPLES = """\
index,name,target,prediction,confidence,loss
0,p,cat,{},0.9,2.5
1,q,dog,dog,0.75,0.25
2,r,dog,dog,0.5,0.5
"""
CONFUSION = "true,cat,dog\ncat,{},{}\ndog,0,2\n"
CLASSES = "class,precision,recall,f1,support\ncat,1.0,0.5,0.6667,1\ndog,1.0,1.0,1.0,2\n"
EVIL = "<script>document.title='evil'</script>\"'><img src=x onerror=\"document.title='evil'\">"
NO_END = ("meta", "img", "path", "polyline", "circle", "line", "br")


class Page(HTMLParser):
    """A page taken apart: its tags with their attributes, and its text below each heading."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.heads, self.below = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in NO_END:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in NO_END:
            assert self.open.pop() == tag, self.getpos()

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if "h2" in self.open:
            self.heads.append(data)
        elif self.heads:
            self.below[self.heads[-1]] = self.below.get(self.heads[-1], "") + f" {data}"

    def words(self, head):
        """Return the text below a heading, blanks as one."""
        return " ".join(self.below[head].split())

    def all(self, tag, attribute):
        """Return an attribute of all tags that have it."""
        return [attrs[attribute] for name, attrs in self.tags if name == tag and attribute in attrs]


def report(path, *texts, **options):
    runs = open_runs(texts or ["latest"], folders(path), "report")
    page = Page(make_report(runs, **options))
    assert not page.open
    return page


def draw_png(width=8, height=8, noise=False):
    picture = Image.effect_noise((width, height), 99) if noise else Image.new("L", (width, height))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "png")
    return file.getvalue()


def add_ledger(log_dir, decided="cat", f1=(0.7, 0.8)):
    """Write what a Ledger leaves of two cats and a dog."""
    n_right = int(decided == "cat")
    (log_dir / "samples.csv").write_text(SAMPLES.format(decided))
    (log_dir / "confusion.csv").write_text(CONFUSION.format(n_right, 1 - n_right))
    (log_dir / "classes.csv").write_text(CLASSES)
    (log_dir / "worst.png").write_bytes(draw_png())
    about = {"set": "val", "n_samples": 3, "confidence": 0.9, "intervals": {"f1": f1}}
    write_json(log_dir / "evaluation.json", about)


def test_a_run_is_told_in_full(tmp_path):
    diff = "diff --git a/x.py b/x.py\n-old\n+new\n"
    environment = {"commit": "b" * 40, "diff": diff, "python": "3.12.1", "versions": {"torch": "9"}}
    environment |= {"data": {"train": {"n": 77}}, "command": ["train.py", "my config.py"]}
    add_ledger(make_run(tmp_path, "20260101-120000_a", environment=environment), "dog")
    page = report(tmp_path)
    assert page.heads == [
        "Results",
        "Curves",
        "Classes, validation set",
        "Samples, validation set",
        "Pictures",
        "Config",
        "Machine, versions, data",
        "Uncommitted changes",
        "Repeat it",
    ]
    assert "val_f1 0.75 [0.7, 0.8] 0.625" in page.words("Results")
    assert "90 % interval" in page.words("Results")
    assert "cat 0 1 dog 0 2" in page.words("Classes, validation set")
    assert "cat 1 1.0 0.5 0.6667" in page.words("Classes, validation set")
    samples = page.words("Samples, validation set")
    assert "1 of 3 are wrong" in samples and "p cat dog \u2717 0.9 2.5 r dog dog 0.5 0.5" in samples
    assert "MODEL models.ConvNet(ch_in=1, bulk_ch=16)" in page.words("Config")
    assert "python 3.12.1 data.train.n 77 torch 9" in page.words("Machine, versions, data")
    assert "-old +new" in page.words("Uncommitted changes")
    commands = page.words("Repeat it")
    assert commands.startswith(f"git checkout {'b' * 40} # and its uncommitted changes python ")
    assert "python train.py 'my config.py' # typed" in commands
    assert "predict.py -i FILES -o DIR" in commands


def test_what_a_run_does_not_have_is_left_out(tmp_path):
    make_run(tmp_path, "1_a", f1=(), environment={"python": "3"})
    assert report(tmp_path).heads == ["Config", "Machine, versions, data", "Repeat it"]
    shutil.rmtree(tmp_path / "logs" / "1_a")
    assert report(tmp_path, "1_a").heads == ["Config", "Repeat it"]


def test_a_table_of_the_ancestor_is_reported(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "experiments.csv").write_text(ANCESTOR)
    page = report(tmp_path, "first")
    assert "MODEL UNET( (a): Conv2d() )" in page.words("Config")


def test_runs_are_compared(tmp_path):
    add_ledger(make_run(tmp_path, "1_a", (0.5, 0.75)))
    add_ledger(make_run(tmp_path, "2_b", (0.25,), OPTIMIZER_CONFIG={"lr": 0.5}), "dog")
    page = report(tmp_path, "1_a", "2_b")
    assert "1_a 0.25 0.75 [0.7, 0.8] 2_b 0.75 0.25" in page.words("Results")
    assert "accuracy 1.0000 0.6667 -0.3333" in page.words("Sample by sample")
    assert "0 gained, 1 lost, 0 wrong in both" in page.words("Sample by sample")
    assert "p cat cat 0.9 2.5 dog \u2717 0.9 2.5" in page.words("Samples, validation set")
    config = page.words("Config")
    assert "What differs 1_a 2_b OPTIMIZER_CONFIG.lr 0.002 0.5 The same" in config
    marked = [attrs for tag, attrs in page.tags if tag == "tr" and attrs.get("class") == "differs"]
    assert len(marked) == 2  # there and in the whole config
    plots = [json.loads(text) for text in page.all("figure", "data-plot")]
    assert [len(plot["curves"]) for plot in plots] == [2, 2, 2]
    assert plots[0]["curves"][0] == {
        "run": 0,
        "label": "1_a train_loss",
        "points": [[1.0, 0.5], [2.0, 0.25]],
    }


def test_the_best_of_a_column_is_marked_where_it_is_known(tmp_path):
    for name, f1 in (("1_a", 0.5), ("2_b", 0.75)):
        log_dir = make_run(tmp_path, name, (f1,))
        text = (log_dir / "metrics.csv").read_text()
        lines = [f"{line},{end}" for line, end in zip(text.split(), ("val_x", f1), strict=True)]
        (log_dir / "metrics.csv").write_text("\n".join(lines))
    runs = open_runs(["1_a", "2_b"], folders(tmp_path), "report")
    marked = re.findall(r'<span class="top">([^<]*)<', make_report(runs))
    assert marked == ["0.25", "0.75"]  # the least loss and the largest of MONITOR; nothing of val_x


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [("running", None, "ts process ended without a word."), ("failed", "ValueError: no", ": no")],
)
def test_a_run_that_is_not_done_tells_why(tmp_path, status, error, says):
    log_dir = make_run(tmp_path, "1_a", status=status)
    make_run(tmp_path, "2_b")
    (log_dir / "result.json").write_text(json.dumps({"error": error}))
    (log_dir / "train.log").write_text("".join(f"line {i}\n" for i in range(5000)))
    for texts in (["1_a"], ["1_a", "2_b"]):
        text = make_report(open_runs(texts, folders(tmp_path), "report"))
        assert re.search(f'<p class="error">.*{says}</p>', text)
        log = Page(text).words("The end of the log")
        assert log.endswith("line 4998 line 4999") and "line 4000" not in log


def make_evil(tmp_path):
    """Write a run in which all that can be text is a script."""
    environment = {"commit": EVIL, "diff": f"+{EVIL}\ud800", "versions": {EVIL: EVIL}}
    name = "1_<img src=x onerror=alert(1)>"
    log_dir = make_run(
        tmp_path, name, status="failed", environment=environment, __COMMENT=EVIL, MODEL=EVIL
    )
    add_ledger(log_dir)
    for file in ("samples.csv", "classes.csv", "confusion.csv"):
        text = (log_dir / file).read_text().replace("cat", '"' + EVIL.replace('"', '""') + '"')
        (log_dir / file).write_text(text)
    text = (log_dir / "metrics.csv").read_text()
    (log_dir / "metrics.csv").write_text(
        text.replace("val_f1", '"' + EVIL.replace('"', '""') + '"')
    )
    (log_dir / "result.json").write_text(json.dumps({"error": EVIL}))
    (log_dir / "train.log").write_text(EVIL)
    return open_runs([name], folders(tmp_path), "report")


def test_what_a_run_wrote_stays_text(tmp_path):
    page = Page(make_report(make_evil(tmp_path)))
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert len(scripts) == 1 and not page.open
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert all(source.startswith("data:image/") for source in page.all("img", "src"))
    for head in ("Results", "Classes, validation set", "Samples, validation set", "Config"):
        assert EVIL in page.words(head)
    assert any(EVIL in text for text in page.all("figure", "data-plot")) is False
    assert EVIL in json.loads(page.all("figure", "data-plot")[-2])["curves"][0]["label"]


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    add_ledger(make_run(tmp_path, "1_a"))
    page = report(tmp_path)
    addresses = page.all("img", "src") + page.all("a", "href") + page.all("script", "src")
    assert all(text.startswith(("data:", "#")) for text in addresses)
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base")]
    (rule,) = page.all("meta", "content")[1:]
    assert rule.startswith("default-src 'none'; img-src data:; ")


def test_pictures_are_kept_small(tmp_path):
    log_dir = make_run(tmp_path, "1_a")
    (log_dir / "worst.png").write_bytes(draw_png(1500, 900, noise=True))
    assert (log_dir / "worst.png").stat().st_size > 1_000_000
    (source,) = report(tmp_path).all("img", "src")
    kind, _, content = source.partition(",")
    shown = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/jpeg;base64" and shown.format == "JPEG"
    assert len(content) < 1_400_000 and shown.width >= 800


def test_a_damaged_picture_is_named(tmp_path):
    log_dir = make_run(tmp_path, "1_a")
    (log_dir / "worst.png").write_bytes(draw_png(90, 90, noise=True)[:500])
    assert "worst.png cannot be shown: " in report(tmp_path).words("Pictures")
    (log_dir / "worst.png").write_bytes(b"<svg onload='alert(1)'>")
    page = report(tmp_path)
    assert not page.all("img", "src") and "worst.png cannot" in page.words("Pictures")


def test_large_tables_are_cut(tmp_path):
    log_dir = make_run(tmp_path, "1_a", tuple(0.5 + i / 5000 for i in range(2000)))
    names = [f"c{i}" for i in range(300)]
    rows = [f"{name},1,1,{i / 300},9" for i, name in enumerate(names)]
    (log_dir / "classes.csv").write_text("\n".join(["class,precision,recall,f1,support", *rows]))
    counts = [",".join([name, *["1"] * 300]) for name in names]
    (log_dir / "confusion.csv").write_text("\n".join([",".join(["true", *names]), *counts]))
    (log_dir / "confusion.png").write_bytes(draw_png())
    (log_dir / "samples.csv").write_text(
        "index,name,loss\n" + "".join(f"{i},n{i},{i}\n" for i in range(5000))
    )
    (run,) = open_runs(["1_a"], folders(tmp_path), "report")
    text = make_report([run])
    page = Page(text)
    assert len(text) < 250_000
    words = page.words("Classes, validation set")
    assert "the 100 of 300 with the least f1 class" in words and "c99 9" in words
    assert "c100" not in words and "which classes are taken" in page.words("Pictures")
    assert "n4999 4999 n4998 4998" in page.words("Samples, validation set")
    plots = [json.loads(text) for text in page.all("figure", "data-plot")]
    points = plots[0]["curves"][0]["points"]
    assert len(points) == 400 and (points[0][0], points[-1][0]) == (1, 2000)


def test_labels_have_a_row_of_four(tmp_path):
    log_dir = make_run(tmp_path, "1_a")
    head = "label,true_positive,false_negative,false_positive,true_negative"
    (log_dir / "confusion.csv").write_text(f"{head}\nfur,3,1,0,6\n")
    text = make_report(open_runs(["1_a"], folders(tmp_path), "report"))
    cells = re.findall(r'<td class="(\w+)(?: none)?" style="--share: ([\d.]+)">(\d+)', text)
    assert cells == [
        ("right", "0.87", "3"),
        ("wrong", "0.50", "1"),
        ("wrong", "0.00", "0"),
        ("right", "1.00", "6"),
    ]


def test_results_of_the_test_set_have_their_own_part(tmp_path):
    log_dir = make_run(tmp_path, "1_a")
    (log_dir / "test").mkdir()
    add_ledger(log_dir / "test")
    heads = report(tmp_path).heads
    assert "Classes, test set" in heads and "Samples, validation set" not in heads


def test_samples_that_two_runs_do_not_share_are_said(tmp_path):
    add_ledger(make_run(tmp_path, "1_a"))
    log_dir = make_run(tmp_path, "2_b")
    (log_dir / "samples.csv").write_text("index,name,loss\n0,other,1.0\n")
    words = report(tmp_path, "1_a", "2_b").words("Sample by sample")
    assert "expected the samples of" in words


def test_a_damaged_table_of_counts_is_named(tmp_path):
    log_dir = make_run(tmp_path, "1_a")
    (log_dir / "confusion.csv").write_text("true,cat\ncat,many\n")
    with pytest.raises(ValueError, match="confusion.csv: expected counts, got .*many"):
        report(tmp_path)


def test_a_run_that_writes_is_read_as_far_as_it_is(tmp_path):
    log_dir = make_run(tmp_path, "1_a", status="running")
    with open(log_dir / "metrics.csv", "a", encoding="utf-8") as file:
        file.write("4,40,0.1")
    assert "0.75" in report(tmp_path).words("Results")


def test_no_runs_are_no_report():
    with pytest.raises(ConfigError, match="report: expected a run, got none. Train first."):
        make_report([])


# ------------------------------------------------------------------------------ in a browser

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
needs_browser = pytest.mark.skipif(not BROWSER, reason="needs chromium or google-chrome")


def browse(file, tmp_path):
    """Open a file; return the page after its scripts have run, and what the console says."""
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=2000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@needs_browser
def test_a_browser_runs_nothing_that_a_run_wrote(tmp_path):
    runs = make_evil(tmp_path)
    file = tmp_path / "report.html"
    write_report(file, runs)
    shown, console = browse(file, tmp_path)
    assert not console and html.escape(runs[0].name, quote=False) in shown
    assert re.search("<title>(.*?)</title>", shown)[1] != "evil"
    # what got through all the same would be refused: only the script of the page is known
    planted = file.read_text(encoding="utf-8").replace("</main>", f"{EVIL}</main>")
    file.write_text(planted, encoding="utf-8")
    shown, console = browse(file, tmp_path)
    assert console and re.search("<title>(.*?)</title>", shown)[1] != "evil"


@needs_browser
def test_a_browser_shows_it_at_any_width_and_numbers_under_the_pointer(tmp_path):
    for name in ("20260101-120000_first", "20260101-120000_a-second-one-with-a-long-name"):
        add_ledger(make_run(tmp_path, name))
    runs = open_runs(["first", "second"], folders(tmp_path), "report")
    ask = """<script>
      const page = document.documentElement, svg = document.querySelector("figure.plot svg");
      const box = svg.getBoundingClientRect();
      const at = {clientX: box.right - 20, clientY: box.top + 50};
      svg.dispatchEvent(new PointerEvent("pointermove", at));
      const tip = document.querySelector(".tip").textContent;
      const said = [innerWidth, page.scrollWidth - page.clientWidth, tip];
      parent.document.body.append(JSON.stringify(said) + ";");
    </script></body>"""
    text = re.sub("<meta http-equiv.*>", "", make_report(runs))  # it would refuse our script
    text = html.escape(text.replace("</body>", ask))
    frames = [f'<iframe width="{width}" srcdoc="{text}"></iframe>' for width in (1280, 400)]
    file = tmp_path / "frames.html"
    file.write_text(f"<!doctype html><body>{''.join(frames)}</body>", encoding="utf-8")
    shown, console = browse(file, tmp_path)
    said = [json.loads(text) for text in re.findall(r"\[\d+,\d+,.*?\](?=;)", shown)]
    assert not console and sorted(each[:2] for each in said) == [[400, 0], [1280, 0]]
    assert all("epoch 320260101-120000_first train_loss  0.375" in each[2] for each in said)

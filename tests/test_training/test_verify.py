"""`--verify-resume`: good configs are told to be good, and of broken ones it names what breaks."""

import copy
import multiprocessing.util
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

import train
from config.config import ROOT_PATH
from tests.test_training.common import ROUTINES, Pictures
from training import verify
from training.verify import Short, ShortOfBatches, find_difference, fingerprint, leaves

HEAD = """
import functools
import multiprocessing
from pathlib import Path
import torch
from tests.test_training.common import Net, Pictures, StopAfter, make_config
from training.callbacks import Callback, EarlyStopping

assert multiprocessing.get_start_method(allow_none=True) is None  # workers start as they ever do
"""
TINY = "train_config = make_config({})\n"

GOOD = {
    "sgd": TINY.format(""),
    "adamw-one_cycle-ema-accumulate-bf16": TINY.format(
        "OPTIMIZER=torch.optim.AdamW, OPTIMIZER_CONFIG={'lr': 0.01}, ONE_CYCLE=True, EMA=0.9,"
        " ACCUMULATE=3, DATA_LOADER_CONFIG={'batch_size': 4}, MIXED_PRECISION=True,"
        " CALLBACKS=[functools.partial(EarlyStopping, patience=1)]"
    ),
    "fp16-clip-plateau-workers": TINY.format(
        "MIXED_PRECISION='fp16', CLIP_NORM=0.5, VALIDATE_EVERY=9,"
        " SCHEDULER=torch.optim.lr_scheduler.ReduceLROnPlateau,"
        " DATA_LOADER_CONFIG={'batch_size': 8, 'num_workers': 2}"
    ),
    "an epoch of one batch": TINY.format("DATA_LOADER_CONFIG={'batch_size': 64}, ACCUMULATE=2"),
}
DETERMINISTIC = """
class Read(torch.utils.data.TensorDataset):
    deterministic = True

    def __init__(self):
        super().__init__(*Pictures().x.split(1, 1), Pictures().y)

    def __getitems__(self, indices):
        return [self[i] for i in indices]

train_config = make_config(TRAIN_DATASET=Read, VAL_DATASET=Read)
"""
STREAM = """
class Stream(torch.utils.data.IterableDataset):
    def __len__(self):
        return 51

    def __iter__(self):
        data = Pictures()
        return (data[i] for i in range(51))

train_config = make_config(TRAIN_DATASET=Stream, VAL_DATASET=Stream)
"""
CACHE = """
class Cached(Pictures):
    def __init__(self):
        super().__init__(augment=False)
        self.cache = {}

    def __getitem__(self, index):
        return self.cache.setdefault(index, super().__getitem__(index))

train_config = make_config(TRAIN_DATASET=Cached)
"""
GOOD |= {"a dataset that reads batches": DETERMINISTIC, "a stream": STREAM, "a cache": CACHE}
TRACKER = """
class Touch:
    def __init__(self, run):
        Path(__file__).with_name("touched").touch()

    def log(self, values, step):
        pass

    close = log

train_config = make_config(TRACKERS=[Touch])
"""
GOOD["a tracker that must not hear of it"] = TRACKER
ORDER_OF_A_SET = """
class Named(Pictures):
    order = [*{f"file {i}" for i in range(51)}]

    def __getitem__(self, index):
        return super().__getitem__(int(self.order[index].removeprefix("file ")))

train_config = make_config(TRAIN_DATASET=Named)
"""
COUNTING_LOSS = """
n_calls = 0

def loss(pred, target):
    global n_calls
    n_calls += 1
    return torch.nn.functional.cross_entropy(pred, target) * (1 + 0.01 * n_calls)

train_config = make_config(LOSS=loss)
"""
PLAIN_ATTRIBUTE = """
class Warming(Net):
    warmth = 0.5

    def forward(self, x):
        if self.warmth == 0.5:  # a hook that is there after the resume alone is no suspect
            self.head.register_forward_hook(lambda *_: None)
        if self.training:
            self.warmth = 0.9 * self.warmth + 0.1
        return self.warmth * super().forward(x)

train_config = make_config(MODEL=Warming)
"""
COUNTING_DATA = """
class Counting(Pictures):
    n_reads = 0

    def __getitem__(self, index):
        self.n_reads += 1
        x, y = super().__getitem__(index)
        return x + 0.001 * self.n_reads, y

train_config = make_config(TRAIN_DATASET=Counting)
"""
COUNTING_CALLBACK = """
class Worse(Callback):
    n_worse = 0

    def on_epoch_end(self, run, metrics):
        self.n_worse += 1
        {act}

    def state_dict(self):
        return {state}

train_config = make_config(CALLBACKS=[Worse], EPOCHS=5)
"""
VALIDATION_DATA = COUNTING_DATA.replace(
    "TRAIN_DATASET=Counting",
    "VAL_DATASET=functools.partial(Counting, n=19, seed=1, augment=False), VALIDATE_EVERY=9",
)
UNTRACKED_OPTIMIZER = """
class Second(Callback):
    def on_start(self, run):
        self.optimizer = torch.optim.SGD(run.module.head.parameters(), lr=0.01, momentum=0.9)

    def on_batch_end(self, run, loss):
        for param in run.module.head.parameters():
            param.grad = torch.ones_like(param)
        self.optimizer.step()
        self.optimizer.zero_grad()

train_config = make_config(CALLBACKS=[Second])
"""
PROCESS_ID = """
import os

class Mine(Pictures):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 1e-6 * (os.getpid() % 1000), y

train_config = make_config(TRAIN_DATASET=Mine)
"""
# config and what must be said of it
BROKEN = {
    "a global in the loss": (
        COUNTING_LOSS,
        r"^This config does not resume to the bit: loss differs first, in epoch 2, batch 2"
        r" \(unbroken [\d.]+, resumed [\d.]+\)\. Weights and data were equal.*"
        r"in no checkpoint: n_calls of \w*mine\w* \(before \d+, after \d\)\.$",
    ),
    "an attribute that is no buffer": (
        PLAIN_ATTRIBUTE,
        r"loss differs first, in epoch 2, batch 2 .*register_buffer"
        r".*: warmth of Warming \(model\) \(before [\d.]+, after not set\)\.$",
    ),
    "a dataset that counts": (
        COUNTING_DATA,
        r"bit: data: x differs first, in epoch 2, batch 2\. A sample must follow from its index.*"
        r": n_reads of Counting \(train data\) \(before \d+, after \d+\)",
    ),
    "a state that is not taken back": (
        COUNTING_CALLBACK.format(act="", state="{'n_worse': self.n_worse}"),
        r"bit: callback\.0\.Worse: n_worse differs first, after batch 1 of epoch 2"
        r" \(unbroken 1, resumed 0\)\. It is saved but not taken back",
    ),
    "a callback that counts epochs": (
        COUNTING_CALLBACK.format(act="run.should_stop = self.n_worse == 2", state="{}"),
        r"bit: the length of the run differs first, at the start of epoch 3"
        r" \(unbroken is over, resumed goes on\)\. A callback"
        r".*: n_worse of Worse \(callback\.0\) \(before 1, after not set\)\.$",
    ),
    "validation data that count": (
        VALIDATION_DATA,
        r"bit: val_loss differs first, at the end of epoch 2 .* The training was equal"
        r".*: n_reads of Counting \(val data\)",
    ),
    "a second optimizer that is not tracked": (
        UNTRACKED_OPTIMIZER,
        r"bit: module: head\.2\.weight differs first, after batch 2 of epoch 2\. Losses were equal",
    ),
    "what differs from process to process": (
        PROCESS_ID,
        r"^This config cannot be repeated, killed or not: data: x differs first, in epoch 1,"
        r" batch 1\. Two runs differ",
    ),
}


def slow_to_import(routine):
    marks = [pytest.mark.slow] if routine in ("fastai", "lightning") else []
    return pytest.param(routine, marks=marks)


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch):
    """Fork the processes from one that has imported torch: a tenth of the time, but not its own."""
    multiprocessing.set_forkserver_preload(["torch._dynamo", "training.run", "rich"])
    monkeypatch.setattr(verify, "_START", "forkserver")


@pytest.fixture
def check(tmp_path, monkeypatch, capfd):
    """Verify a config file; return exit code, what was printed and what was complained of."""
    multiprocessing.util.get_temp_dir()  # made once, and not where it ends with this test
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def run(config, *arguments):
        (tmp_path / "mine.py").write_text(HEAD + config, encoding="utf-8")
        place = [f"LOG_DIR={tmp_path}/logs", f"WEIGHT_DIR={tmp_path}/weights"]
        code = train.main([str(tmp_path / "mine.py"), "--verify-resume", *place, *arguments])
        # nothing in the user's folders, and nothing left of its own
        written = {path.name for path in tmp_path.iterdir()}
        assert written - {"__pycache__"} == {"mine.py", "tmp"}
        assert not list((tmp_path / "tmp").glob("plumbline_*"))
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize("name", GOOD)
def test_a_good_config(name, check):
    code, out, _ = check(GOOD[name])
    assert code == 0, out
    assert re.match(r"This config resumes to the bit: killed after batch \d of epoch 2 and", out)
    assert re.search(r"it repeats an unbroken run up to batch \d of epoch 3: ", out)
    assert out.count("\n") == 1 and "Other after" not in out


@pytest.mark.parametrize("routine", [slow_to_import(routine) for routine in ROUTINES])
def test_every_routine(routine, check):
    code, out, _ = check(GOOD["adamw-one_cycle-ema-accumulate-bf16"], "--routine", routine)
    assert code == 0, out
    # windows of 3, 3, 3 and 1 batches: killed in the third
    assert "killed after batch 7 of epoch 2 and resumed after batch 3," in out
    assert "An epoch had 10 batches" in out


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_and_what_breaks_it(name, check):
    config, message = BROKEN[name]
    code, out, _ = check(config)
    assert code == 1
    assert re.search(message, out), out


def test_a_count_without_effect_is_mentioned(check):
    code, out, _ = check(COUNTING_LOSS.replace("0.01 * n_calls", "0 * n_calls"))
    assert code == 0
    assert re.search(
        r"Other after the resume, without effect so far: n_calls of \w*mine\w* \(b", out
    )


def test_a_run_that_fails_anyway(check):
    code, out, _ = check(TINY.format("OPTIMIZER_CONFIG={'lr': 1e30}"))
    assert code == 1
    assert out.startswith("This run fails, killed or not: NonFiniteLossError: epoch 1, batch ")


def test_a_run_that_fails_when_it_is_resumed(check):
    broken = COUNTING_CALLBACK.format(act="", state="{'n': self.n_worse}")
    broken = broken.replace(
        "    n_worse", "    def load_state_dict(self, s): s['m']\n    n_worse", 1
    )
    code, out, _ = check(broken)
    assert code == 1
    assert (
        out == "This config does not resume: the resumed run fails, not the first. KeyError: 'm'\n"
    )


def test_what_it_cannot_tell(check, monkeypatch):
    code, out, err = check(TINY.format("CALLBACKS=[functools.partial(StopAfter, 1)]"))
    assert (code, out) == (2, "")
    assert "expected a run of two epochs, got one that ended by itself" in err
    assert check(TINY.format("EPOCHS='three'"))[:2] == (2, "")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = check(TINY.format(""))
    assert (code, out) == (2, "")
    assert "--verify-resume: expected one process, got 2. Start it without torchrun." in err


def test_it_is_a_real_kill():
    process = multiprocessing.get_context("forkserver").Process(target=kill)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def kill():
    os.setsid()
    verify.Observer("killed", Path(os.devnull))._kill()


# ------------------------------------------------------------------------------------- the parts


def test_short_data_are_spread_over_all():
    data = Short([*range(100)], 8)
    assert [data[i] for i in range(len(data))] == [0, 12, 25, 37, 50, 62, 75, 87]
    assert len(Short([1, 2], 8)) == 2 and len(Short([], 8)) == 0
    pictures = pickle.loads(pickle.dumps(Short(Pictures(), 8)))
    assert len(pictures) == 8 and pictures.augment and not hasattr(pictures, "__getitems__")
    by_batches = ShortOfBatches(Subset([*range(100)], range(100)), 8)
    assert by_batches.__getitems__([1, 7]) == [12, 87]


def test_leaves_have_a_name_each():
    state = {"state": {3: {"exp_avg": torch.zeros(2), "step": 1}}, "groups": [{"betas": (0.9, 1)}]}
    names = dict(leaves(state))
    assert list(names) == ["state 3 exp_avg", "state 3 step", "groups 0 betas"]
    assert names["groups 0 betas"] == "(0.9, 1)" and names["state 3 step"] == "1"
    assert len(dict(leaves(["python", [*range(625)], None], "x"))) == 3


BITS = [
    (torch.tensor([0.0]), torch.tensor([-0.0])),
    (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float16)),
    (torch.ones(2, 3), torch.ones(3, 2)),
    (torch.zeros(2000), torch.eye(2000)[999]),
    (np.zeros(2000), np.eye(2000)[999]),
    ([*range(1000)], [*range(999), 0]),
    (1.0, 1),
]


@pytest.mark.parametrize(("one", "other"), BITS)
def test_fingerprints_tell_bits_apart(one, other):
    assert fingerprint(one) == fingerprint(copy.deepcopy(one)) != fingerprint(other)


def test_random_states_count_only_with_something_else():
    whole = {(0, 1, 1): {"random: python 1": "a", "module: w": "1"}}
    drawn = {(0, 1, 1): {"random: python 1": "b", "module: w": "1"}}
    assert find_difference(whole, drawn) is None
    drawn[0, 1, 1]["module: w"] = "2"
    assert find_difference(whole, drawn).name == "random: python 1"


# --------------------------------------------------------------------------------- real commands


def start(tmp_path, config):
    (tmp_path / "mine.py").write_text(HEAD + config, encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, str(ROOT_PATH / "train.py"), "mine.py", "--verify-resume"]
    environment = os.environ | {"PYTHONPATH": str(ROOT_PATH), "TMPDIR": str(tmp_path / "tmp")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)


@pytest.mark.slow  # here each of the three processes imports torch
@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        (GOOD["fp16-clip-plateau-workers"] + "print('loaded')", 0, "This config resumes to"),
        (ORDER_OF_A_SET, 1, "This config cannot be repeated, killed or not: data: x"),
        (TINY.format("EPOCH=3"), 2, 'expected a known key, got "EPOCH"'),
    ],
)
def test_the_command(config, code, said, tmp_path):
    child = start(tmp_path, config)
    out, err = child.communicate(timeout=300)
    assert child.returncode == code, err
    assert said in (err if code == 2 else out)
    assert out.count("\n") == (code != 2)
    assert "Traceback" not in err and not list(tmp_path.glob("tmp/plumbline_*"))


@pytest.mark.slow
def test_ctrl_c_ends_it(tmp_path):
    child = start(tmp_path, GOOD["sgd"])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("tmp/plumbline_*/unbroken.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err and not list(tmp_path.glob("tmp/plumbline_*"))

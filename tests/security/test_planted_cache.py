"""A file in the cache never runs code: what is planted there is moved aside, and its step runs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.filesystems import LocalFileSystem
from prefect.settings import (
    PREFECT_DEFAULT_RESULT_STORAGE_BLOCK,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)

from flows.run_step import run_step, run_together
from flows.stack.prefect_session import PrefectSession
from merge_core.homes.home import Home
from tasks.caching.content_task import ContentKey
from tasks.caching.record_storage import RecordStorage
from tasks.caching.stored_records import stored_form
from tasks.decide import decide_task, decision_key
from tasks.promotion.bar import Bar
from tasks.promotion.rule import PromotionRule
from tasks.records import Decision, EvaluationReport, TaskScore
from tests.support.planted_results import RUN_CODE, WRONG, Attack, Stored, noted
from tests.support.recorded_steps import recorded_steps
from tests.support.slow_cases import first_few

RULE = PromotionRule(max_regression=0.5, min_gain=-0.5, min_documents=1, resamples=200)


def report(digest: str, values: tuple[float, ...]) -> EvaluationReport:
    """What an evaluation of a few documents gives."""
    score = TaskScore(
        task="questions",
        metric="acc",
        higher_is_better=True,
        score=sum(values) / len(values),
        doc_ids=tuple(f"{index:064x}" for index in range(len(values))),
        values=values,
        weights=(1.0,) * len(values),
    )
    return EvaluationReport(
        checkpoint_digest=digest * 64,
        reference=digest,
        suite="suite",
        suite_digest="5" * 64,
        lm_eval_version="1",
        transformers_version="1",
        device="cpu",
        scores=(score,),
    )


REPORTS = (report("a", (1.0, 1.0, 0.0, 1.0)), report("b", (1.0, 0.0, 0.0, 1.0)))
BAR = Bar(RULE, REPORTS[1])
KEY = decision_key(REPORTS[0], BAR)
assert isinstance(decide_task.cache_policy, ContentKey)
PLACE = f"decide-v{decide_task.cache_policy.version}-{KEY}"
OTHER = (report("c", (1.0, 1.0, 1.0, 1.0)), report("b", (1.0, 0.0, 0.0, 1.0)))


@dataclass
class Step:
    """The decide step in a home, as a flow calls it."""

    cache: Path
    marker: Path
    """A file that an attack makes."""
    place: Path
    """Where the step's record is."""
    warnings: list[str] = field(default_factory=list)

    def run(
        self, reports: tuple[EvaluationReport, EvaluationReport] = REPORTS, **options: Any
    ) -> tuple[Decision, str]:
        """The step's answer, and whether it was found or made."""
        task = decide_task.with_options(**options) if options else decide_task

        @flow
        def deciding() -> Decision:
            arguments = (reports[0], Bar(RULE, reports[1]))
            return run_step(task, *arguments, subject="test")

        with recorded_steps() as steps:
            decision: Decision = deciding()
        [(_, outcome)] = steps.all
        return decision, outcome

    @property
    def honest(self) -> Stored:
        """What the step stores, which is put in its place."""
        self.cache.mkdir(parents=True, exist_ok=True)
        self.place.write_bytes(stored_form(decide_task.fn(REPORTS[0], BAR), str(self.place)))
        stored: Stored = json.loads(self.place.read_bytes())
        return stored

    @property
    def aside(self) -> list[Path]:
        """What was moved aside."""
        return sorted(self.cache.glob("set-aside-*/*"))


class Warnings(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(record.getMessage())


@pytest.fixture
def step(prefect: PrefectSession, home: Home, tmp_path: Path) -> Iterator[Step]:
    step = Step(home.cache, tmp_path / "attacked", home.cache / PLACE)
    handler = Warnings(step.warnings)
    logger = logging.getLogger("mergeflow")
    logger.addHandler(handler)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield step
    logger.removeHandler(handler)


def refuses(step: Step) -> None:
    """Assert that what stands in the place of the record is not used, nor lost."""
    noted.clear()
    step.warnings.clear()
    decision, outcome = step.run()
    assert not step.marker.exists(), "it ran code"
    assert noted == [], "it ran code"
    assert outcome != "cached"
    assert decision == decide_task.fn(REPORTS[0], BAR)
    assert [path.name for path in step.aside] == [step.place.name]
    [warning] = step.warnings
    assert str(step.place) in warning
    assert warning.isprintable()
    assert step.run() == (decision, "cached"), "the record is there again"


@pytest.mark.parametrize("attack", first_few(RUN_CODE.values(), 4), ids=list(RUN_CODE))
def test_a_planted_result_runs_nothing(step: Step, attack: Attack) -> None:
    planted = attack(step.honest, step.marker)
    step.place.write_bytes(planted)
    refuses(step)
    assert step.aside[0].read_bytes() == planted


@pytest.fixture(scope="module")
def honest() -> bytes:
    """What the step stores."""
    return stored_form(decide_task.fn(REPORTS[0], BAR), f"/home/cache/{PLACE}")


@pytest.mark.parametrize("change", WRONG.values(), ids=list(WRONG))
def test_what_the_step_would_not_have_written_is_not_believed(
    honest: bytes, tmp_path: Path, change: Attack
) -> None:
    place = tmp_path / PLACE
    policy = decide_task.cache_policy
    assert isinstance(policy, ContentKey)
    arguments = {"candidate": REPORTS[0], "bar": BAR}
    place.write_bytes(honest)
    storage = RecordStorage.of(place, policy.kind, partial(policy.fits, **arguments))
    assert json.loads(storage.read_path(place.name))["result"] == json.loads(honest)["result"]
    planted = change(json.loads(honest), tmp_path)
    assert planted != honest
    place.write_bytes(planted)
    storage = RecordStorage.of(place, policy.kind, partial(policy.fits, **arguments))
    with pytest.raises(FileNotFoundError):
        storage.read_path(place.name)
    [aside] = tmp_path.glob("set-aside-*/*")
    assert aside.read_bytes() == planted
    storage.write_path(place.name, planted)
    assert not place.exists(), "nor is it ever written"


def test_the_record_of_other_inputs_is_not_taken(step: Step) -> None:
    step.run(OTHER)
    [other] = [path for path in step.cache.iterdir() if path.is_file()]
    shutil.copy(other, step.place)
    refuses(step)


def test_nor_if_it_claims_the_key(step: Step) -> None:
    step.run(OTHER)
    [other] = [path for path in step.cache.iterdir() if path.is_file()]
    stored = json.loads(other.read_bytes())
    stored["metadata"]["storage_key"] = str(step.place)
    step.place.write_text(json.dumps(stored))
    refuses(step)


def a_link(place: Path, elsewhere: Path) -> None:
    place.rename(elsewhere)
    place.symlink_to(elsewhere)


def a_link_to_nothing(place: Path, elsewhere: Path) -> None:
    place.symlink_to(elsewhere)


def a_link_to_itself(place: Path, elsewhere: Path) -> None:
    place.symlink_to(place)


def a_link_to_a_device(place: Path, elsewhere: Path) -> None:
    place.symlink_to("/dev/zero")


def a_fifo(place: Path, elsewhere: Path) -> None:
    os.mkfifo(place)


def a_directory(place: Path, elsewhere: Path) -> None:
    place.mkdir()
    (place / "file").write_text("kept")


def a_gigabyte_of_nothing(place: Path, elsewhere: Path) -> None:
    with place.open("wb") as file:
        file.truncate(1 << 30)


def somebody_elses(place: Path, elsewhere: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    place.write_bytes(elsewhere.read_bytes())
    os.chown(place, 65534, 65534)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "plant",
    [
        a_link,
        a_link_to_nothing,
        a_link_to_itself,
        a_link_to_a_device,
        a_fifo,
        a_directory,
        a_gigabyte_of_nothing,
        somebody_elses,
    ],
)
def test_only_a_plain_file_of_ones_own_is_read(
    step: Step, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    content, elsewhere = json.dumps(step.honest).encode(), tmp_path / "elsewhere"
    step.place.unlink()
    if plant in (a_link, somebody_elses):
        (step.place if plant is a_link else elsewhere).write_bytes(content)
    plant(step.place, elsewhere)
    before = step.place.lstat()
    refuses(step)
    [aside] = step.aside
    assert (aside.lstat().st_ino, aside.lstat().st_mode) == (before.st_ino, before.st_mode)
    if plant is a_link:
        assert elsewhere.read_bytes() == content, "what a link leads to stays as it is"
    assert not step.place.is_symlink()
    assert step.place.stat().st_mode & 0o777 == 0o600


def test_a_record_is_never_written_through_a_link(step: Step, tmp_path: Path) -> None:
    step.run()
    step.place.unlink()
    target = tmp_path / "precious"
    target.write_text("precious")
    step.place.symlink_to(target)
    assert step.run(refresh_cache=True)[1] != "cached"
    assert target.read_text() == "precious"
    assert step.run()[1] == "cached"


@pytest.mark.slow
def test_whoever_exchanges_the_file_between_look_and_use_gains_nothing(step: Step) -> None:
    honest = json.dumps(step.honest).encode()
    attacks = [attack(step.honest, step.marker) for attack in list(RUN_CODE.values())[:2]]
    stop = threading.Event()

    def exchange() -> None:
        fresh, turn = step.cache.parent / "fresh", 0
        while not stop.is_set():
            fresh.write_bytes((honest, *attacks)[turn % 3])
            fresh.replace(step.place)
            turn += 1

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        answers = [step.run()[0] for _ in range(12)]
    finally:
        stop.set()
        thread.join()
    assert not step.marker.exists()
    assert answers == [decide_task.fn(REPORTS[0], BAR)] * 12


def test_several_runs_at_once_agree_on_what_was_planted(step: Step) -> None:
    planted = RUN_CODE["pickle"](step.honest, step.marker)
    step.place.write_bytes(planted)
    answers: list[Decision] = []

    @flow
    def deciding() -> None:
        def job() -> Decision:
            decision: Decision = run_step(decide_task, REPORTS[0], BAR, subject="test")
            return decision

        answers.extend(run_together([job] * 4, 4))

    deciding()
    assert not step.marker.exists()
    assert answers == [decide_task.fn(REPORTS[0], BAR)] * 4
    assert [path.read_bytes() for path in step.aside] == [planted]


@pytest.mark.parametrize(
    "options",
    [
        {"result_serializer": "pickle"},
        {"result_storage": Path("/nowhere")},
        {"cache_result_in_memory": False},
        {"retries": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_a_call_lead_to_no_other_reader(step: Step, options: dict[str, Any]) -> None:
    step.place.write_bytes(RUN_CODE["pickle"](step.honest, step.marker))
    decision, outcome = step.run(**options)
    assert not step.marker.exists()
    assert outcome != "cached"
    assert decision == decide_task.fn(REPORTS[0], BAR)
    assert len(step.aside) == 1


def test_a_policy_that_keeps_keys_elsewhere_leads_to_no_other_reader(
    step: Step, tmp_path: Path
) -> None:
    policy = decide_task.cache_policy
    assert isinstance(policy, ContentKey)
    pickled = json.loads(RUN_CODE["pickle"](step.honest, step.marker))
    elsewhere = tmp_path / "keys"
    elsewhere.mkdir()
    metadata = {**pickled["metadata"], "storage_key": step.place.name}
    (elsewhere / step.place.name).write_text(json.dumps(metadata))
    step.place.write_text(pickled["result"])
    _, outcome = step.run(cache_policy=policy.configure(key_storage=elsewhere))
    assert not step.marker.exists()
    assert outcome != "cached"


@pytest.mark.parametrize("chosen", ["by a profile", "by the server"])
def test_no_other_storage_is_read_whoever_names_one(
    step: Step, tmp_path: Path, chosen: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / step.place.name).write_bytes(RUN_CODE["pickle"](step.honest, step.marker))
    step.place.unlink()
    block = LocalFileSystem(basepath=str(elsewhere))
    identity = block.save("planted", overwrite=True, _sync=True)
    with get_client(sync_client=True) as client:
        if chosen == "by the server":
            client.update_server_default_result_storage(identity)
        named = {PREFECT_DEFAULT_RESULT_STORAGE_BLOCK: "local-file-system/planted"}
        try:
            with temporary_settings(named if chosen == "by a profile" else {}):
                _, outcome = step.run()
        finally:
            client.clear_server_default_result_storage()
    assert not step.marker.exists()
    assert outcome != "cached"
    assert step.run()[1] == "cached"


def test_what_is_believed_is_a_hit_however_it_is_spelled(step: Step) -> None:
    step.place.write_text(json.dumps(step.honest, indent=3))
    decision = decide_task.fn(REPORTS[0], BAR)
    assert step.run() == (decision, "cached")
    assert step.aside == []
    assert step.warnings == []

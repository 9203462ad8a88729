"""Tuning by meta_schedule: what a database has is used, and the rest is measured once.

Source: Shao et al., "Tensor Program Optimization with Probabilistic Programs" (2022).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any

import tvm
from rich.progress import Progress
from tvm import relax
from tvm.s_tir import meta_schedule
from tvm.s_tir.meta_schedule.builder.local_builder import derived_object

from bnfx.tvm.settings import Settings

log = logging.getLogger("bnfx")

_PATIENCE = 300  # seconds: a worker's first build takes TVM a minute of imports


def tuned(module: tvm.IRModule, settings: Settings) -> tvm.IRModule:
    """The module lowered and scheduled by the database, for TVM's generic pipeline.

    Args:
        module: of Relax functions.
        settings: its ``database`` is made if it is not there; with ``trials``, what it does not
            have is tuned and added.
    """
    assert settings.database is not None
    target = _with_cores(settings.target)
    settings.database.mkdir(parents=True, exist_ok=True)
    folder = str(settings.database)
    with target:
        lowered = tvm.transform.Sequential(
            [
                relax.transform.DecomposeOpsForInference(),
                relax.transform.CanonicalizeBindings(),
                relax.get_pipeline("zero"),
            ]
        )(module)
        database = meta_schedule.database.JSONDatabase(work_dir=folder, allow_missing=True)
        if settings.trials:
            _tune(lowered, target, database, folder, settings)
        with database:
            scheduled = relax.transform.MetaScheduleApplyDatabase(enable_warning=False)(lowered)
    assert isinstance(scheduled, tvm.IRModule)
    return scheduled


def _tune(
    module: tvm.IRModule, target: Any, database: Any, folder: str, settings: Settings
) -> None:
    tasks = meta_schedule.relax_integration.extract_tasks(module, target)
    missing = [task for task in tasks if not _has_record(database, task.dispatched[0])]
    log.info("bnfx: %d of %d tasks are to be tuned", len(missing), len(tasks))
    if not missing:
        return
    contexts, weights = meta_schedule.relax_integration.extracted_tasks_to_tune_contexts(
        missing, work_dir=folder
    )
    learns = importlib.util.find_spec("xgboost") is not None
    callback = meta_schedule.measure_callback
    callbacks = [callback.AddToDatabase(), callback.RemoveBuildArtifact()]
    callbacks += [callback.UpdateCostModel()] if learns else []
    with _progress(settings) as bar:
        meta_schedule.tune.tune_tasks(
            tasks=contexts,
            task_weights=weights,
            work_dir=folder,
            max_trials_global=settings.trials,
            num_trials_per_iter=max(1, min(64, settings.trials // len(missing))),
            builder=meta_schedule.builder.LocalBuilder(timeout_sec=_PATIENCE),
            runner=meta_schedule.runner.LocalRunner(timeout_sec=_PATIENCE),
            database=database,
            cost_model="xgb" if learns else "random",
            measure_callbacks=[*callbacks, *bar],
        )


def _has_record(database: Any, module: tvm.IRModule) -> bool:
    if not database.has_workload(module):
        return False
    return bool(database.get_top_k(database.commit_workload(module), 1))


@contextlib.contextmanager
def _progress(settings: Settings) -> Iterator[list[Any]]:
    """Callbacks of the measurement that move a bar."""
    if not settings.progress:
        yield []
        return
    with Progress(transient=True) as bar:
        task = bar.add_task("tuning", total=settings.trials)

        @derived_object
        class Advance(meta_schedule.measure_callback.PyMeasureCallback):  # type: ignore[misc]
            def apply(
                self, scheduler: Any, task_id: int, candidates: Any, builds: Any, runs: Any
            ) -> None:
                bar.advance(task, len(runs))

        yield [Advance()]


def _with_cores(target: Any) -> Any:
    """The target with the number of cores, which tuning for a CPU must know."""
    if str(target.kind.name) != "llvm" or "num-cores" in target.attrs:
        return target
    attributes = {str(key): value for key, value in target.attrs.items()}
    return tvm.target.Target({**attributes, "kind": "llvm", "num-cores": os.cpu_count() or 1})

"""Which settings are worth measuring: stage by stage, each on top of what was best in the one before.

1. Exact switches, one by one. Those that gain together make the best exact setting.
2. Precision, alone and on top of that.
3. ``torch.compile``, once, on the best of all so far; it is measured late, because compiling may take as long as all
   else.
4. The passes, alone and on top.
5. Other batch sizes on top, in time per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ecograph.advice.advice import Row
from ecograph.advice.faults import Faults, page_faults
from ecograph.advice.memory import peak_bytes
from ecograph.advice.rounds import interleaved, ratio
from ecograph.advice.setting import Setting
from ecograph.advice.subject import Subject
from ecograph.advice.trial import NotPossibleError, Trial

#: A switch must gain as much, as a share of the step, to be worth its line of code.
WORTHWHILE = 0.02
PLAIN = Setting()

#: Told what is being measured, and the share of the stage that is done.
Report = Callable[[str, float], None]


@dataclass
class Search:
    """Measures settings of a subject and keeps a row for each.

    Args:
        subject: what is measured.
        seconds: of measuring, in all.
        passes: lists of passes to try.
        by: ``"time"`` or ``"energy"``: what makes a setting better.
        compiled: whether to try ``torch.compile``.
        batches: whether to try other batch sizes.
        approximate: whether to try passes and batch sizes at all.
        precision: whether to try lower precision.
        report: told of the progress.
        rows: what was measured.
        faults: of plain steps, once they are counted.
    """

    subject: Subject
    seconds: float
    passes: Sequence[Sequence[Any]] = ()
    by: str = "time"
    compiled: bool = True
    batches: bool = True
    approximate: bool = True
    precision: bool = True
    report: Report = lambda text, share: None
    rows: dict[Setting, Row] = field(default_factory=dict)
    faults: Faults | None = None

    def run(self) -> list[Row]:
        """Returns the rows, plain training first."""
        share = 1.0 / (3 + self.precision + self.approximate * (1 + self.batches))
        self._plain = self._trial(PLAIN)
        self._stage("exact switches", self._switches(), 2 * share)
        self.faults = page_faults(self._plain)
        exact = self._together()
        self._stage("exact switches together", [exact], share)
        best = self.best("exact")
        if self.precision:
            self._stage(
                "precision", [each for p in self._precisions() for each in (_with(PLAIN, p), _with(best, p))], share
            )
        if self.compiled:
            self._stage("torch.compile", [best.switched(compile=True)], share / 2)
            if self.better(best.switched(compile=True), best) and self.best("near-exact") != self.best("exact"):
                self._stage("torch.compile", [self.best("near-exact").switched(compile=True)], share / 2)
        if self.approximate:
            best = self.best("near-exact").switched(compile=False)
            alone = [PLAIN.switched(passes=tuple(each)) for each in self.passes]
            self._stage("passes", [*alone, *(best.switched(passes=tuple(each)) for each in self.passes)], share)
            if self.batches and (batch := self.subject.batch):
                sizes = [size for size in (batch // 2, 2 * batch, 4 * batch) if size >= 1]
                self._stage("batch sizes", [best.switched(batch=size) for size in sizes], share)
        return list(self.rows.values())

    def best(self, *allowed: str) -> Setting:
        """Returns the best setting with these numerics, or exact ones, that was measured; plain where none gains."""
        allowed = (*allowed, "exact")
        found = [row for row in self.rows.values() if row.possible and row.setting.numerics in allowed]
        best = min(found, key=self._figure, default=None)
        return PLAIN if best is None or not self._gains(best) else best.setting

    def better(self, first: Setting, second: Setting) -> bool:
        """Whether a setting gains against another."""
        a, b = self.rows.get(first), self.rows.get(second)
        if a is None or not a.possible:
            return False
        if second == PLAIN:
            return self._gains(a)
        return self._figure(a) < (1.0 if b is None else self._figure(b)) - WORTHWHILE

    def _gains(self, row: Row) -> bool:
        """Whether a setting is better than plain training in most of the rounds, and by as much as is worth it."""
        return self._figure(row) + row.spread / 2 < 1 - WORTHWHILE

    def _figure(self, row: Row) -> float:
        figure = row.energy_ratio if self.by == "energy" and row.energy_ratio is not None else row.time_ratio
        assert figure is not None
        return figure

    def _switches(self) -> list[Setting]:
        """Returns the exact switches that may matter for this model here."""
        found = []
        if _has_images(self.subject.model):
            found.append(PLAIN.switched(channels_last=True))
        if self.subject.device.type == "cpu":
            now = torch.get_num_threads()
            found += [PLAIN.switched(threads=count) for count in sorted({1, max(1, now // 2)}) if count != now]
        found.append(PLAIN.switched(fused=True))
        return found

    def _precisions(self) -> list[dict[str, Any]]:
        if self.subject.device.type != "cuda":
            return [{"amp": "bf16"}]
        found: list[dict[str, Any]] = [{"amp": "fp16"}]
        if torch.cuda.is_bf16_supported(including_emulation=False):
            found = [{"tf32": True}, {"amp": "bf16"}, *found]
        return found

    def _together(self) -> Setting:
        """Returns all exact switches that gained, at once; of several thread counts, the best."""
        gained = [row.setting for row in self.rows.values() if row.possible and self.better(row.setting, PLAIN)]
        threads = [setting for setting in gained if setting.threads]
        best = min(threads, key=lambda setting: self._figure(self.rows[setting]), default=PLAIN)
        return Setting(
            channels_last=any(setting.channels_last for setting in gained),
            fused=any(setting.fused for setting in gained),
            threads=best.threads,
        )

    def _stage(self, title: str, settings: Sequence[Setting], share: float) -> None:
        """Measures settings beside plain training, those that were not yet."""
        new = [each for each in dict.fromkeys(settings) if each not in self.rows and each != PLAIN]
        trials = []
        for number, setting in enumerate(new):
            self.report(f"{title}: {setting.title}", 0.3 * number / len(new))
            try:
                trials.append(self._trial(setting))
            except NotPossibleError as error:
                self.rows[setting] = Row(setting, impossible=str(error))
        if not trials and PLAIN in self.rows:
            return

        def tick(part: float) -> None:
            self.report(title, 0.3 + 0.7 * part)

        timings = interleaved([self._plain, *trials], share * self.seconds, tick=tick)
        for trial, timing in zip([self._plain, *trials], timings, strict=True):
            if trial is self._plain and PLAIN in self.rows:
                continue
            batch = self.subject.batch
            per_sample = (batch or 1) / trial.setting.batch if trial.setting.batch else 1.0
            times, spread = ratio(timing.seconds, timings[0].seconds)
            energy, plain = timing.energy, timings[0].energy
            known = energy.joules is not None and plain.joules is not None
            joules, _ = ratio(timing.joules, timings[0].joules) if known else (None, 0.0)
            memory = peak_bytes(trial)
            base = self.rows[PLAIN].peak_bytes if PLAIN in self.rows else memory
            self.rows[trial.setting] = Row(
                trial.setting,
                seconds=sorted(timing.seconds)[len(timing.seconds) // 2],
                time_ratio=times * per_sample,
                spread=spread * per_sample,
                joules=energy.joules,
                energy_source=energy.source,
                energy_ratio=None if joules is None else joules * per_sample,
                peak_bytes=memory,
                memory_ratio=memory / base if memory and base else None,
                difference=_difference(trial, self._plain),
                rounds=len(timing.seconds),
            )

    def _trial(self, setting: Setting) -> Trial:
        return Trial(self.subject, setting)


def _with(setting: Setting, changes: dict[str, Any]) -> Setting:
    return setting.switched(**changes)


def _has_images(model: nn.Module) -> bool:
    """Whether channels_last changes anything: it is for weights with four dimensions that are not 1x1 throughout."""
    return any(parameter.ndim == 4 for parameter in model.parameters())


def _difference(trial: Trial, plain: Trial) -> float | None:
    """Returns how far the first gradient is from plain training's, as a share of its norm."""
    if trial.gradient is None or plain.gradient is None:
        return None
    norm = plain.gradient.norm()
    return float((trial.gradient - plain.gradient).norm() / norm) if norm else None

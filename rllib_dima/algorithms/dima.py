"""DIMA: multi-agent reinforcement learning inside a diffusion world model (NeurIPS 2025).

"Revisiting Multi-Agent World Modeling from a Diffusion-Inspired Perspective", arXiv 2505.20922. The algorithm itself is
`rllib_dima.core.dima.trainer`; how RLlib runs it is `base.py`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from rllib_dima.algorithms.base import TeamAlgorithm
from rllib_dima.algorithms.base_config import NOT_PROVIDED, TeamConfig
from rllib_dima.checkpoint import Place, locate
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.settings import ALTERNATIVES

_BATCHES = "Set env_steps_per_iteration, or the batch sizes of the networks, such as dynamics_batch_size."


class DIMAConfig(TeamConfig):
    """Configuration of DIMA.

        DIMAConfig().environment("mamujoco_ant_4x2").training(model_size="nano", gamma=0.98).build()

    `help(DIMAConfig.training)` lists the hyperparameters. A subclass that adds settings must declare them as class
    attributes, because assigning to unknown names is refused.
    """

    hyperparameter_class, trainer_class = DIMAHyperparameters, DIMATrainer
    alternatives: ClassVar[dict[str, str]] = {
        **ALTERNATIVES,
        "lr": "Set actor_lr, critic_lr, decoder_lr, dynamics_lr or reward_lr.",
        "grad_clip": (
            "Set actor_grad_clip, critic_grad_clip, decoder_grad_clip, dynamics_grad_clip or reward_grad_clip."
        ),
        **dict.fromkeys(("train_batch_size", "_train_batch_size_per_learner"), _BATCHES),
        "_torch_lr_scheduler_classes": "Learning rates are constant after dynamics_lr_warmup_updates.",
    }
    shown_losses: ClassVar[dict[str, str]] = {"dynamics_loss": "world_model"}

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or DIMA)
        self.imagination_report_interval: int | None = None
        self.imagination_report_figures = False

    def reporting(
        self,
        *,
        imagination_report_interval: int | None = NOT_PROVIDED,
        imagination_report_figures: bool = NOT_PROVIDED,
        **kwargs: Any,
    ) -> Self:
        """Sets what is reported.

        Args:
            imagination_report_interval: learning iterations between measurements of imagination over several steps, on
                steps that were not learnt from yet, as learners/world_model/open_loop_error_5 and _15 beside those of
                "nothing changes"; None for never. Training stays the same to the bit.
            imagination_report_figures: whether each also writes a picture, imagination_<environment steps>.png, into
                the trial's folder (without Tune: into `algo.logdir`). Needs matplotlib.
            **kwargs: `progress`, and RLlib's own settings.

        Returns:
            This config.
        """
        super().reporting(**kwargs)
        if imagination_report_interval is not NOT_PROVIDED:
            self.imagination_report_interval = imagination_report_interval
        if imagination_report_figures is not NOT_PROVIDED:
            self.imagination_report_figures = imagination_report_figures
        return self

    def validate(self) -> None:
        """See `TeamConfig.validate`; also that pictures can be drawn, and when.

        Raises:
            ValueError, TypeError: a value is wrong.
            ModuleNotFoundError: matplotlib is missing.
        """
        super().validate()
        if self.imagination_report_figures and not self.imagination_report_interval:
            raise ValueError("imagination_report_figures=True draws nothing without an imagination_report_interval.")
        if self.imagination_report_figures and importlib.util.find_spec("matplotlib") is None:
            raise ModuleNotFoundError("imagination_report_figures=True needs more: pip install matplotlib.")

    def trainer_settings(self) -> dict[str, Any]:
        """When imagination is measured."""
        return {"imagination_report_interval": self.imagination_report_interval}

    @classmethod
    def _own_settings(cls) -> tuple[str, ...]:
        return *super()._own_settings(), "imagination_report_interval", "imagination_report_figures"


class DIMA(TeamAlgorithm):
    """DIMA: a policy that learns in rollouts imagined by a diffusion world model."""

    config: DIMAConfig

    def training_step(self) -> None:
        """One iteration of learning, and a picture of what is imagined, if the configuration asks for one."""
        super().training_step()
        if self.config.imagination_report_figures:
            self._draw_imagination()

    def _draw_imagination(self) -> None:
        """Draws what the first learner has measured in this iteration, if it has."""
        report: Any = next(iter(self.learner_group.foreach_learner(_imagination_report))).get()
        if report is None:
            return
        from rllib_dima.analysis.figures import progress_picture  # needs matplotlib

        folder = _trial_folder(self)
        file = Path(folder.path) / f"imagination_{report.num_env_steps:09d}.png"
        with folder.filesystem.open_output_stream(file.as_posix()) as stream:
            progress_picture(report).savefig(stream, format="png", dpi=120)

    @classmethod
    def get_default_config(cls) -> DIMAConfig:
        """The paper's settings."""
        return DIMAConfig()


def _imagination_report(learner: Any) -> Any:
    return learner.trainer.imagination_report


def _trial_folder(algorithm: DIMA) -> Place:
    """Where Tune keeps the trial's results, which is not where it runs; without Tune, the algorithm's own folder."""
    storage = algorithm._storage
    return locate(algorithm.logdir) if storage is None else Place(storage.storage_filesystem, storage.trial_fs_path)

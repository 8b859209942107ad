"""Every hyperparameter of an optimiser reaches one, in every algorithm."""

import pytest
from support.core import TINY, TINY_MAMBA, TINY_MARIE, UNEQUAL, make_trainer

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.trainer import DIMATrainer
from rllib_dima.core.mamba.hyperparameters import MAMBAHyperparameters
from rllib_dima.core.mamba.trainer import MAMBATrainer
from rllib_dima.core.marie.hyperparameters import MARIEHyperparameters
from rllib_dima.core.marie.trainer import MARIETrainer
from rllib_dima.core.model_free.happo import HAPPOTrainer
from rllib_dima.core.model_free.hasac import HASACTrainer
from rllib_dima.core.model_free.hyperparameters import HAPPOHyperparameters, HASACHyperparameters, MAPPOHyperparameters
from rllib_dima.core.model_free.mappo import MAPPOTrainer

ALGORITHMS = {
    DIMATrainer: (DIMAHyperparameters, TINY),
    MAMBATrainer: (MAMBAHyperparameters, TINY_MAMBA),
    MARIETrainer: (MARIEHyperparameters, TINY_MARIE),
    MAPPOTrainer: (MAPPOHyperparameters, {}),
    HAPPOTrainer: (HAPPOHyperparameters, {}),
    HASACTrainer: (HASACHyperparameters, {"replay_capacity": 1000}),
}
SETTINGS = ("_lr", "_grad_clip", "_weight_decay", "_lr_warmup_updates", "adam_epsilon")


@pytest.mark.parametrize("trainer_class", ALGORITHMS, ids=lambda kind: kind.__name__)
def test_every_setting_of_an_optimizer_reaches_one(trainer_class):
    kind, sizes = ALGORITHMS[trainer_class]
    names = [name for name in kind.__dataclass_fields__ if name.endswith(SETTINGS)]
    given = {
        name: 11 + number if name.endswith("updates") else (1 + number) / 1024 for number, name in enumerate(names)
    }
    trainer = make_trainer(trainer_class, UNEQUAL, kind(**sizes, **given))
    found = set()
    for optimizer in trainer.optimizers.values():
        found |= {optimizer.lr, optimizer.grad_clip, optimizer.warmup_updates}
        found |= {group[name] for group in optimizer._optimizer.param_groups for name in ("weight_decay", "eps")}
    assert {name for name, value in given.items() if value not in found} == set()

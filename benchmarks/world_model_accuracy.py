"""How well does the world model predict? Open-loop error on held-out data, per recipe, conditioning mode and baseline.

    python benchmarks/world_model_accuracy.py                       # three tasks, nano, three seeds
    python benchmarks/world_model_accuracy.py --tasks halfcheetah_2x3 --recipes paper --model-size paper --seeds 0
    python benchmarks/world_model_accuracy.py --tasks halfcheetah_2x3 --run DIMA MARIE MAMBA --seconds 600

Data: 24,000 steps under smoothed random actions whose scale varies from episode to episode, fixed by a seed; the last
4,000 are held out. MAMuJoCo's actions are noise of correlation 0.8 and scale 0.2 to 1; the hands' 0 or 0.8, and 0.05 to
0.8, since their episodes end where the object is dropped. Every model gets the same number of updates on its batches.
It is then given the real states of its context, and the actions really taken, and predicts 15 steps on its own
predictions. Printed is the mean absolute error per state entry in normalised units (1 = one standard deviation of that
entry) after 1, 5 and 15 steps, over 1,000 held-out windows, as mean and standard deviation over the seeds.

Baselines: the state stays as it is; a plain MLP of two hidden layers with about as many parameters as the dynamics
model above it, which sees the same context and all actions, predicts the change of the state, and is trained with the
same batches, learning rate and number of updates, by squared errors; and the same MLP with the recipe's loss and
average of weights, where it has them.

With `--run` the world models of whole algorithms are compared instead, at equal updates and at equal seconds, by what
all of them predict: see `world_models.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import torch
import world_models
from torch import nn

from rllib_dima.analysis.plain_mlp import PlainDynamics, train_dynamics
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import Trajectory, Window
from rllib_dima.envs import CooperativeEnv, make

STEPS_SHOWN = (1, 5, 15)
NUM_WINDOWS = 1000
NUM_STEPS, NUM_HELD_OUT = 24_000, 4_000
TASKS = ("halfcheetah_2x3", "ant_4x2", "bidexhands_door_open_outward")


def smoothed_actions(rng: np.random.Generator, hands: bool, num_agents: int, action_size: int) -> np.ndarray:
    """(T, N, A): first-order autoregressive noise with a scale drawn per episode, clipped to [-1, 1]."""
    length = 250 if hands else 1000
    scale, memory = (rng.uniform(0.05, 0.8), rng.choice([0.0, 0.8])) if hands else (rng.uniform(0.2, 1.0), 0.8)
    noise = rng.normal(size=(length, num_agents, action_size))
    actions = np.zeros_like(noise)
    for t in range(length):
        actions[t] = (memory * actions[t - 1] if t else 0) + np.sqrt(1 - memory**2) * noise[t]
    return np.clip(scale * actions, -1, 1).astype(np.float32)


def collect(task: str, seed: int) -> tuple[AgentLayout, list[Trajectory], list[Trajectory]]:
    """Plays `NUM_STEPS` steps of smoothed random actions: layout, and episodes to train on and to hold out."""
    hands = task.startswith("bidexhands_")
    env = CooperativeEnv(make(task if hands else f"mamujoco_{task}"))
    rng, layout, first = np.random.default_rng(seed), env.layout, env.layout.agent_ids[0]
    episodes: list[Trajectory] = []
    while sum(map(len, episodes)) < NUM_STEPS:
        actions = smoothed_actions(rng, hands, layout.num_agents, layout.action_size)
        observations, infos = env.reset(seed=seed + len(episodes))
        states, seen, rewards, terminated = [infos[first]["state"]], [], [], False
        for joint in actions:
            seen.append(np.stack([observations[agent] for agent in layout.agent_ids]))
            observations, reward, ended, cut, infos = env.step(dict(zip(layout.agent_ids, joint, strict=True)))
            states.append(infos[first]["state"])
            rewards.append(reward[first])
            terminated = ended["__all__"]
            if terminated or cut["__all__"]:
                break
        columns = (np.stack(states), np.stack(seen), actions[: len(rewards)], np.array(rewards, dtype=np.float32))
        episodes.append(Trajectory(str(len(episodes)), *columns, terminated=terminated, truncated=not terminated))
    last = len(episodes)
    while sum(map(len, episodes[last:])) < NUM_HELD_OUT:
        last -= 1
    return layout, episodes[:last], episodes[last:]


def fill(layout: AgentLayout, episodes: list[Trajectory]) -> ReplayBuffer:
    """A replay buffer holding just these episodes."""
    buffer = ReplayBuffer(layout, sum(map(len, episodes)))
    for episode in episodes:
        buffer.add(episode)
    return buffer


class DiffusionModel:
    """The dynamics model as it is trained and sampled in DIMA."""

    def __init__(self, hp: DIMAHyperparameters, world_model: WorldModel) -> None:
        self.hp, self.world_model, self.module = hp, world_model, world_model.dynamics

    def loss(self, window: Window) -> torch.Tensor:
        return self.world_model.dynamics_loss(window)[0]

    def after_update(self) -> None:
        self.module.after_update()

    def predict(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        valid = torch.ones(context.shape[:2], dtype=torch.bool)
        scale = self.hp.sigma_data
        return self.module.sample(context * scale, actions, valid) / scale


class StaysAsItIs:
    """The state does not change."""

    def predict(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return context[:, -1]


@torch.no_grad()
def open_loop_errors(model, normalizer: nn.Module, held_out: ReplayBuffer, hp: DIMAHyperparameters) -> list[float]:
    """Mean absolute error in normalised units after each of `STEPS_SHOWN` steps."""
    past, horizon = hp.context_length - 1, max(STEPS_SHOWN)
    torch.manual_seed(1)
    window = held_out.windows(torch.randperm(len(held_out)), past, horizon - 1)
    whole = window.valid.all(dim=1).nonzero().squeeze(1)[:NUM_WINDOWS]
    states, next_states = normalizer(window.states[whole]), normalizer(window.next_states[whole])
    context, errors = states[:, : past + 1], []
    for step in range(horizon):
        predicted = model.predict(context, window.actions[whole, step : step + past + 1])
        errors.append((predicted - next_states[:, past + step]).abs().mean().item())
        context = torch.cat([context[:, 1:], predicted[:, None]], dim=1)
    return [errors[step - 1] for step in STEPS_SHOWN]


def variants(args: argparse.Namespace) -> Iterator[tuple[str, DIMAHyperparameters]]:
    """Name and hyperparameters of everything that is to be trained."""
    for recipe in args.recipes:
        for mode in args.conditioning:
            settings = {} if recipe != "paper" else {"dynamics_lr": 1e-3, "num_autoregressive_steps": 1}
            steps = {} if recipe == "paper" else {"num_denoising_steps": {"joint": 1, "cumulative": 2}.get(mode, 0)}
            settings |= {"conditioning": mode, **steps, **json.loads(args.set)}
            yield f"{recipe} {mode}", DIMAHyperparameters.resolve(settings, "mamujoco", args.model_size, recipe)


def measure(layout: AgentLayout, data: tuple[list[Trajectory], list[Trajectory]], hp, kind: str, args, seed: int):
    """Trains one model; errors, parameters and CPU seconds per update in milliseconds."""
    replay, held_out = (fill(layout, episodes) for episodes in data)
    torch.manual_seed(seed)
    world_model = WorldModel(layout, hp)
    states = torch.as_tensor(np.concatenate([episode.states for episode in data[0]]))
    changes = torch.as_tensor(np.concatenate([np.diff(episode.states, axis=0) for episode in data[0]]))
    world_model.normalizer.update(states)
    if world_model.dynamics.changes is not None:
        world_model.dynamics.changes.update(changes, world_model.normalizer.scale)
    models = {
        "stays": lambda: StaysAsItIs(),
        "mlp": lambda: PlainDynamics(layout, hp, world_model),
        "mlp like recipe": lambda: PlainDynamics(layout, hp, world_model, like_recipe=True),
    }
    model = models.get(kind, lambda: DiffusionModel(hp, world_model))()
    start, size = time.thread_time(), 0
    if kind != "stays":
        train_dynamics(model, replay, hp, args.updates)
        size = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    milliseconds = 1e3 * (time.thread_time() - start) / args.updates
    world_model.eval()
    return open_loop_errors(model, world_model.normalizer, held_out, hp), size, milliseconds


def main() -> None:
    """Trains every model; prints a table per task, and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--recipes", nargs="+", default=["paper", "swift"], choices=DIMAHyperparameters.RECIPES)
    parser.add_argument("--conditioning", nargs="+", default=["joint", "cumulative", "sequential"])
    parser.add_argument("--model-size", default="nano", choices=DIMAHyperparameters.MODEL_SIZES)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of networks and batches")
    parser.add_argument("--set", default="{}", help="further hyperparameters as JSON; with --run by algorithm")
    parser.add_argument("--no-baselines", action="store_true", help="leave the plain MLPs out")
    parser.add_argument("--run", nargs="+", choices=world_models.UPDATES, help="compare whole algorithms")
    parser.add_argument("--recipe", default="paper", help="DIMA's, with --run")
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds per model, with --run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for task in args.tasks:
        layout, *data = collect(task, seed=0)
        if args.run:
            rows += world_models.compare(task, layout, tuple(data), args)
            continue
        print(f"\n{task}: {sum(map(len, data[0]))} steps, {layout.state_size} entries", flush=True)
        print(f"{'model':<18} {'parameters':>10} {'ms/update':>9}", *(f"{f'{s} steps':>15}" for s in STEPS_SHOWN))
        jobs = [("stays", "stays", next(variants(args))[1])]
        for name, hp in variants(args):
            jobs.append((name, "diffusion", hp))
            if "joint" in name and not args.no_baselines:
                jobs.append(("plain MLP", "mlp", hp))
                jobs += [("... like recipe", "mlp like recipe", hp)] * bool(hp.dynamics_ema_decay)
        for name, kind, hp in jobs:
            results = [measure(layout, tuple(data), hp, kind, args, seed) for seed in args.seeds]
            errors = np.array([result[0] for result in results])
            mean, spread = errors.mean(0), errors.std(0, ddof=1) if len(errors) > 1 else np.zeros(len(STEPS_SHOWN))
            cells = (f"{f'{m:.3f} +- {d:.3f}':>15}" for m, d in zip(mean, spread, strict=True))
            print(f"{name:<18} {results[0][1]:>10} {results[0][2]:>9.2f}", *cells, flush=True)
            rows.append({"task": task, "model": name, "parameters": results[0][1], "errors": errors.tolist()})
    print(json.dumps({"arguments": vars(args), "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

"""How well does the world model predict? Open-loop error on held-out data, per conditioning mode and baseline.

    python benchmarks/world_model_accuracy.py                       # paper size, about 40 minutes on one CPU core
    python benchmarks/world_model_accuracy.py --model-size nano     # about 12 minutes

Data: HalfCheetah-2x3, 24 episodes of 1,000 steps under smoothed random actions whose scale varies from episode to
episode, fixed by a seed; 20 episodes to train on, 4 held out. Every model gets the same number of updates on batches
of 64 windows. It is then given 3 real states, and the actions really taken, and predicts 15 steps on its own
predictions. Printed is the mean absolute error per state dimension in normalised units (1 = one standard deviation
of that dimension) after 1, 5 and 15 steps, over 1,000 held-out windows.

Baselines: the state stays as it is; a plain MLP with about as many parameters as the dynamics model, which sees
the same context and all actions, and predicts the change of the state.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from torch import nn

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.core.replay.data import Trajectory, Window
from rllib_dima.core.training.optimization import ModelOptimizer
from rllib_dima.envs import CooperativeEnv, make

STEPS_SHOWN = (1, 5, 15)
NUM_WINDOWS = 1000
EPISODE_LENGTH = 1000


def smoothed_actions(rng: np.random.Generator, num_agents: int, action_size: int) -> np.ndarray:
    """(T, N, A): first-order autoregressive noise with a scale drawn per episode, clipped to [-1, 1]."""
    scale, memory = rng.uniform(0.2, 1.0), 0.8
    noise = rng.normal(size=(EPISODE_LENGTH, num_agents, action_size))
    actions = np.zeros_like(noise)
    for t in range(EPISODE_LENGTH):
        actions[t] = (memory * actions[t - 1] if t else 0) + np.sqrt(1 - memory**2) * noise[t]
    return np.clip(scale * actions, -1, 1).astype(np.float32)


def collect(env: CooperativeEnv, num_episodes: int, seed: int) -> list[Trajectory]:
    """Plays `num_episodes` episodes of smoothed random actions."""
    rng, layout, first = np.random.default_rng(seed), env.layout, env.layout.agent_ids[0]
    episodes = []
    for episode in range(num_episodes):
        actions = smoothed_actions(rng, layout.num_agents, layout.action_size)
        observations, infos = env.reset(seed=seed + episode)
        states, seen, rewards = [infos[first]["state"]], [], []
        for joint in actions:
            seen.append(np.stack([observations[agent] for agent in layout.agent_ids]))
            observations, reward, _, _, infos = env.step(dict(zip(layout.agent_ids, joint, strict=True)))
            states.append(infos[first]["state"])
            rewards.append(reward[first])
        columns = (np.stack(states), np.stack(seen), actions, np.array(rewards, dtype=np.float32))
        episodes.append(Trajectory(str(episode), *columns, truncated=True))
    return episodes


def fill(layout: AgentLayout, episodes: list[Trajectory]) -> ReplayBuffer:
    """A replay buffer holding just these episodes."""
    buffer = ReplayBuffer(layout, sum(map(len, episodes)))
    for episode in episodes:
        buffer.add(episode)
    return buffer


class PlainMLP(nn.Module):
    """Predicts z_{t+1} - z_t from L states and joint actions. (B, L, S), (B, L, N, A) -> (B, S)."""

    def __init__(self, layout: AgentLayout, hp: DIMAHyperparameters, hidden: int) -> None:
        super().__init__()
        size_in = hp.context_length * (layout.state_size + layout.num_agents * layout.action_size)
        self.network = nn.Sequential(
            nn.Linear(size_in, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, layout.state_size),
        )  # fmt: skip

    def forward(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return states[:, -1] + self.network(torch.cat([states.flatten(1), actions.flatten(1)], dim=1))


class MLPModel:
    """The plain MLP behind the interface of `DiffusionModel`, sized to about as many parameters."""

    def __init__(self, layout: AgentLayout, hp: DIMAHyperparameters, world_model: WorldModel) -> None:
        self.hp, self.normalizer = hp, world_model.normalizer
        wanted = sum(p.numel() for p in world_model.dynamics.parameters())
        self.module = PlainMLP(layout, hp, int(wanted**0.5))

    def loss(self, window: Window) -> torch.Tensor:
        length = self.hp.context_length
        z, z_next = self.normalizer(window.states) * window.valid[..., None], self.normalizer(window.next_states)
        context, errors = z[:, :length], []
        for step in range(z.shape[1] - length + 1):
            predicted = self.module(context, window.actions[:, step : step + length])
            errors.append((predicted - z_next[:, step + length - 1]).square().mean(1))
            context = torch.cat([context[:, 1:], predicted.detach()[:, None]], dim=1)
        weight = window.valid[:, length - 1 :].float()
        return (torch.stack(errors, 1) * weight).sum() / weight.sum()

    def predict(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return self.module(context, actions)


class DiffusionModel:
    """The dynamics model as it is trained and sampled in DIMA."""

    def __init__(self, hp: DIMAHyperparameters, world_model: WorldModel) -> None:
        self.hp, self.world_model, self.module = hp, world_model, world_model.dynamics

    def loss(self, window: Window) -> torch.Tensor:
        return self.world_model.dynamics_loss(window)[0]

    def predict(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        valid = torch.ones(context.shape[:2], dtype=torch.bool)
        scale = self.hp.sigma_data
        return self.module.sample(context * scale, actions, valid) / scale


class StaysAsItIs:
    """The state does not change."""

    def predict(self, context: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return context[:, -1]


def train(model: MLPModel | DiffusionModel, replay: ReplayBuffer, hp: DIMAHyperparameters, updates: int) -> None:
    """`updates` steps of AdamW on windows from `replay`."""
    settings = (hp.dynamics_lr, hp.dynamics_grad_clip, hp.dynamics_weight_decay, 1e-8, hp.dynamics_lr_warmup_updates)
    optimizer = ModelOptimizer("dynamics", model.module, torch.optim.AdamW, *settings)
    for _ in range(updates):
        window = replay.sample(hp.dynamics_batch_size, hp.context_length - 1, hp.num_autoregressive_steps - 1)
        optimizer.begin_update()
        optimizer.step(model.loss(window))


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


def main() -> None:
    """Trains every model, prints one table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-size", default="paper", choices=("paper", "small", "nano"))
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=3e-4, help="learning rate of every model")
    parser.add_argument("--unrolls", type=int, nargs="+", default=[1, 3], help="values of num_autoregressive_steps")
    parser.add_argument("--conditioning", nargs="+", default=["sequential", "joint", "cumulative"])
    parser.add_argument("--offset-noise", type=float, default=0.3)
    parser.add_argument("--set", default="{}", help="further hyperparameters as JSON")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)

    env = CooperativeEnv(make("mamujoco_halfcheetah_2x3"))
    episodes = collect(env, 24, args.seed)
    replay, held_out = fill(env.layout, episodes[:20]), fill(env.layout, episodes[20:])
    print(
        f"{'model':<12} {'unroll':>6} {'parameters':>10} {'train s':>8}", *(f"{f'{s} steps':>9}" for s in STEPS_SHOWN)
    )
    rows = []

    def show(name: str, unroll: int, model, normalizer: nn.Module, hp: DIMAHyperparameters, seconds: float) -> None:
        errors = open_loop_errors(model, normalizer, held_out, hp)
        size = sum(p.numel() for p in model.module.parameters()) if hasattr(model, "module") else 0
        print(f"{name:<12} {unroll:>6} {size:>10} {seconds:>8.0f}", *(f"{e:>9.3f}" for e in errors), flush=True)
        rows.append({"model": name, "unroll": unroll, "parameters": size, "errors": errors})

    for unroll in args.unrolls:
        for name in [*(["stays", "mlp"]), *args.conditioning]:
            if name == "stays" and unroll != args.unrolls[0]:
                continue
            conditioning = name if name in args.conditioning else "joint"
            settings = {"dynamics_lr": args.lr, "sigma_offset_noise": args.offset_noise, "dynamics_batch_size": 64}
            settings |= {"num_autoregressive_steps": unroll, "conditioning": conditioning, **json.loads(args.set)}
            hp = DIMAHyperparameters.resolve(settings, "mamujoco", args.model_size)
            torch.manual_seed(args.seed)
            world_model = WorldModel(env.layout, hp)
            world_model.normalizer.update(torch.as_tensor(np.concatenate([e.states for e in episodes[:20]])))
            start = time.perf_counter()
            if name == "stays":
                model = StaysAsItIs()
            else:
                is_mlp = name == "mlp"
                model = MLPModel(env.layout, hp, world_model) if is_mlp else DiffusionModel(hp, world_model)
                train(model, replay, hp, args.updates)
            show(name, unroll, model, world_model.normalizer, hp, time.perf_counter() - start)
    print(json.dumps({"arguments": vars(args), "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

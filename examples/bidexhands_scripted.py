"""How much of the return does reaching and holding on give? A scripted policy beside a random one.

How to run:

    python examples/bidexhands_scripted.py                       # all four tasks, about half a minute
    python examples/bidexhands_scripted.py --task pen --video results/pen.mp4

What to expect: one line per task; returns of about 250, 400, 670 and 35 by the script, and 125, -5, 1 and 0 at random.
Only the doors that are pushed come open.

The script looks into the simulator (positions, Jacobians, masses), which a learned policy cannot, but acts only through
the 26 actions of each hand. Every hand moves its fingertips towards its point of the object by inverse kinematics: the
desired velocity of base and joints is the damped least-squares solution, the base's force is what balances the damping
at that velocity, and the joints' targets lead by their damping over their stiffness.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import imageio.v3 as imageio
import mujoco
import numpy as np

from rllib_dima.envs.bidexhands import TASKS, BiDexHands
from rllib_dima.envs.bidexhands.scene import FINGERS, HANDS, hand_name
from rllib_dima.envs.bidexhands.simulation import HAND_DAMPING, HAND_DOFS
from rllib_dima.envs.bidexhands.tasks import ACTUATED_JOINTS, COUPLED_JOINTS, Points

COUPLING = 1.142  # how far the last joint of a finger turns with the one before it
DAMPING = 5e-3  # of the least squares
BASE_COST = (1.0, 1.0, 1.0, 3.0, 3.0, 3.0)  # how reluctantly the base moves and turns, against 1 for the joints
REACH_GAIN, HOLD_GAIN = 20.0, 10.0  # 1/s, part of the distance that is closed
NEAR = 0.4  # m, sum of the fingertips' distances at which a hand on a door keeps its place relative to it
LEAD = 0.1  # s, damping over stiffness of every joint
VIDEO_FORMATS = (".mp4", ".gif", ".avi", ".mkv", ".mov", ".webm")


class Hand:
    """Inverse kinematics of one hand.

    Args:
        env: the environment.
        index: 0 for the right hand, 1 for the left one.
    """

    def __init__(self, env: BiDexHands, index: int) -> None:
        self.env, self.model, self.data = env, env.simulation.model, env.simulation.data
        name = HANDS[index]
        self.dofs = slice(HAND_DOFS * index, HAND_DOFS * (index + 1))
        self.tips = [self.model.site(f"{name}/{finger}_point") for finger in FINGERS]
        self.forearm = self.model.body(hand_name(name, "forearm")).id
        joints = [self.model.joint(hand_name(name, joint)) for joint in ACTUATED_JOINTS]
        self.positions = np.array([joint.qposadr[0] for joint in joints])
        self.low, self.high = np.array([joint.range for joint in joints]).T
        self.mixing = self._mix_coupled_joints(name, joints)
        self.start = self.pose()
        self.cost = np.diag([*BASE_COST, *[1.0] * len(joints)])

    def _mix_coupled_joints(self, name: str, joints: list) -> np.ndarray:
        """(30, 26) from velocities of base and actuated joints to those of all dofs."""
        mixing = np.zeros((HAND_DOFS, 6 + len(joints)))
        mixing[:6, :6] = np.eye(6)
        for column, joint in enumerate(joints):
            mixing[joint.dofadr[0] - self.dofs.start, 6 + column] = 1.0
        for joint in COUPLED_JOINTS:
            far = self.model.joint(hand_name(name, joint)).dofadr[0] - self.dofs.start
            mixing[far] = COUPLING * mixing[far - 1]
        return mixing

    def errors(self, targets: np.ndarray) -> np.ndarray:
        """(5, 3) from the fingertips to their targets."""
        return targets - np.array([self.data.site(tip.id).xpos for tip in self.tips])

    def reach(self, targets: np.ndarray, gain: float, base_velocity: np.ndarray | None = None) -> np.ndarray:
        """(26,) action that moves the fingertips towards targets (5, 3).

        Args:
            targets: one per finger.
            gain: part of the distance to close per second.
            base_velocity: (6,) of the base, if it is not to take part in the reaching.
        """
        jacobian = np.concatenate([self._jacobian(tip.id) for tip in self.tips]) @ self.mixing  # (15, 26)
        wanted, preferred = gain * self.errors(targets).reshape(-1), np.zeros(26)
        cost = self.cost.copy()
        if base_velocity is None:
            preferred[:6] = self.base_velocity(self.pose()[0], self.start[1], gain=2.0)
        else:
            preferred[:6] = base_velocity
            cost[np.arange(6), np.arange(6)] = 1e6
        normal = jacobian.T @ jacobian + DAMPING * cost
        return self.action(np.linalg.solve(normal, jacobian.T @ wanted + DAMPING * cost @ preferred))

    def pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and rotation (3, 3) of the base."""
        mount = self.forearm - 1
        return self.data.xpos[mount].copy(), self.data.xmat[mount].reshape(3, 3).copy()

    def base_velocity(self, position: np.ndarray, rotation: np.ndarray, gain: float) -> np.ndarray:
        """(6,) velocity of the base towards a pose; angular in the base's own axes, as MuJoCo has it."""
        present, axes = self.pose()
        quat, turn = np.zeros(4), np.zeros(3)
        mujoco.mju_mat2Quat(quat, (axes.T @ rotation).reshape(-1))
        mujoco.mju_quat2Vel(turn, quat, 1.0)
        return gain * np.concatenate([position - present, turn])

    def action(self, velocity: np.ndarray) -> np.ndarray:
        """(26,) action that brings base (6) and actuated joints (20) to a velocity."""
        action = np.zeros(26)
        action[:6] = self._base_action(self.mixing @ velocity)
        targets = self.data.qpos[self.positions] + LEAD * velocity[6:]
        action[6:] = 2 * (targets - self.low) / (self.high - self.low) - 1
        return np.clip(action, -1, 1)

    def _jacobian(self, site: int) -> np.ndarray:
        jacobian = np.zeros((3, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian, None, site)
        return jacobian[:, self.dofs]

    def _base_action(self, velocity: np.ndarray) -> np.ndarray:
        """(6,) force and torque on the forearm that balance the damping at a velocity of all dofs (30,)."""
        full, momentum = np.zeros(self.model.nv), np.zeros(self.model.nv)
        full[self.dofs] = velocity
        mujoco.mj_mulM(self.model, self.data, momentum, full)
        force, torque = HAND_DAMPING * momentum[self.dofs][:6].reshape(2, 3)
        mount = self.forearm - 1
        torque = self.data.xmat[mount].reshape(3, 3) @ torque  # the free joint's angular dofs are in its own axes
        torque = torque - np.cross(self.data.xipos[self.forearm] - self.data.xpos[mount], force)
        task = self.env.task
        action = np.concatenate([force / task.max_force, torque / task.max_torque])
        return action / max(1.0, np.abs(action).max())


class Reach:
    """A hand whose fingertips all go to one point of the object, and stay there.

    Args:
        hand: the hand.
        target: index of the object's point.
        body: what the base keeps its place relative to, once the fingers are near; None: it goes on reaching.
    """

    def __init__(self, hand: Hand, target: int, body: str | None = None) -> None:
        self.hand, self.target = hand, target
        self.body = None if body is None else hand.data.body(body)
        self.grip = None

    def __call__(self, points: Points) -> np.ndarray:
        """(26,) action."""
        targets = np.array([points.targets[self.target]] * len(FINGERS))
        if self.body is not None and self.grip is None and self._distance(targets) < NEAR:
            self.grip = self._relative_pose()
        if self.grip is None:
            return self.hand.reach(targets, REACH_GAIN)
        position, rotation = self.grip
        axes = self.body.xmat.reshape(3, 3)
        velocity = self.hand.base_velocity(self.body.xpos + axes @ position, axes @ rotation, HOLD_GAIN)
        return self.hand.reach(targets, REACH_GAIN, velocity)

    def _distance(self, targets: np.ndarray) -> float:
        """Sum over the fingers."""
        return np.linalg.norm(self.hand.errors(targets), axis=1).sum()

    def _relative_pose(self) -> tuple[np.ndarray, np.ndarray]:
        position, rotation = self.hand.pose()
        axes = self.body.xmat.reshape(3, 3)
        return axes.T @ (position - self.body.xpos), axes.T @ rotation


class HoldBottle:
    """The left hand closes around the bottle and stays where it is."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand

    def __call__(self, points: Points) -> np.ndarray:
        """(26,) action."""
        action = self.hand.action(np.concatenate([self.hand.base_velocity(*self.hand.start, HOLD_GAIN), np.zeros(20)]))
        action[6:8] = 0.0  # wrist
        action[8:] = 1.0
        action[-4:] = 0.0  # thumb
        return action


def scripted_hands(env: BiDexHands) -> list:
    """What the right and the left hand do in a task that was just reset."""
    right, left = Hand(env, 0), Hand(env, 1)
    if env.task.name == "bottle_cap":
        return [Reach(right, target=1), HoldBottle(left)]
    if env.task.name == "pen":
        return [Reach(right, target=0), Reach(left, target=1)]
    return [Reach(right, target=1, body="object/right"), Reach(left, target=0, body="object/left")]


def play(env: BiDexHands, policy: Callable[[], Sequence[np.ndarray]], frames: list | None = None) -> tuple:
    """Plays the episode that was just reset; return, steps, and success.

    Args:
        env: the environment.
        policy: gives the actions of both hands.
        frames: takes a picture of every other step.
    """
    total, steps, done = 0.0, 0, False
    while not done:
        _, rewards, terminateds, truncateds, infos = env.step(dict(zip(env.agents, policy(), strict=True)))
        total, steps = total + rewards["agent_0"], steps + 1
        done = terminateds["__all__"] or truncateds["__all__"]
        if frames is not None and steps % 2:
            frames.append(env.render())
    return total, steps, infos["agent_0"]["success"]


def play_script(env: BiDexHands, frames: list | None = None) -> tuple:
    """An episode of the scripted policy."""
    env.reset()
    hands = scripted_hands(env)
    return play(env, lambda: [hand(env.points()) for hand in hands], frames)


def random_return(env: BiDexHands, episodes: int, seed: int = 0) -> float:
    """Mean return of Gaussian actions of standard deviation 0.5."""
    rng, total = np.random.default_rng(seed), 0.0
    for _ in range(episodes):
        env.reset()
        total += play(env, lambda: rng.normal(0, 0.5, (2, 26)))[0]
    return total / episodes


def positive(text: str) -> int:
    """A whole number of at least 1, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but is {text!r}")
    return int(text)


def video_file(text: str) -> Path:
    """The path of a video, from the command line."""
    file = Path(text)
    if file.suffix.lower() not in VIDEO_FORMATS or file.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file that ends in one of {', '.join(VIDEO_FORMATS)}, not {text!r}")
    if find_spec("imageio_ffmpeg") is None:
        raise argparse.ArgumentTypeError("needs imageio-ffmpeg: pip install imageio-ffmpeg")
    return file


def parse_arguments() -> argparse.Namespace:
    """The command line, refused before anything is simulated; the video's folder exists afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, help="only this task")
    parser.add_argument("--episodes", type=positive, default=20, help="episodes of the random policy")
    parser.add_argument("--video", type=video_file, help="where to write a video of the scripted policy; with --task")
    args = parser.parse_args()
    if args.video and not args.task:
        parser.error("--video needs --task")
    if args.video:
        try:
            args.video.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--video: the folder {args.video.parent} cannot be made: {error}")
    return args


def play_both(task: str, episodes: int, video: Path | None) -> None:
    """Prints what the script and the random policy reach in a task, and films the script."""
    frames = None if video is None else []
    with closing(BiDexHands(task, render_mode="rgb_array")) as env:
        total, steps, success = play_script(env, frames)
        print(f"{task:18s} {total:9.1f} {steps:6d} {success!s:>7s} {random_return(env, episodes):8.1f}")
    if video is not None:
        imageio.imwrite(video, frames, fps=30)


def main() -> None:
    """Plays every task with both policies."""
    args = parse_arguments()
    print(f"{'task':18s} {'scripted':>9s} {'steps':>6s} {'opened':>7s} {'random':>8s}")
    for task in [args.task] if args.task else TASKS:
        play_both(task, args.episodes, args.video)


if __name__ == "__main__":
    main()

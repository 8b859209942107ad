"""The physics of a task: what an action does to the hands, and one control step of 1/60 s.

Order within a control step, once per substep:

    momentum at the present velocity -> damping      M(q) is at hand from the stage before
    mj_step2: forces, contacts, integration
    (last substep: forces and contact wrenches are read, as they acted)
    mj_step1: positions, velocities and collisions at the new state

so that positions and velocities are those after the step, and nothing is computed twice.
"""

from __future__ import annotations

import mujoco
import numpy as np

from rllib_dima.envs.bidexhands.scene import HANDS, build_model, fingertip_bodies, hand_name
from rllib_dima.envs.bidexhands.settings import Settings
from rllib_dima.envs.bidexhands.tasks import JOINTS, Task

HAND_DAMPING = 100.0  # 1/s, of every link's linear and angular momentum
GRAVITY = 9.81  # m/s^2, on the object only
HAND_DOFS = 30  # 6 of the free base, 24 joints
BASE_ACTIONS = 6  # force xyz, torque xyz
_NEXT, _AFTER_NEXT = np.array([1, 2, 0]), np.array([2, 0, 1])
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # all that the future depends on, warm start included


class Simulation:
    """Two hands and an object in MuJoCo.

    Args:
        task: which task.
        settings: parameters of the physics.

    Attributes:
        model: the MuJoCo model.
        data: its present state.
        joint_forces: (2, 24) what actuators and dampers did to the joints in the last substep, in N m.
        fingertip_wrenches: (2, 5, 6) force and torque of all contacts on the last links of the fingers in the last
            substep, in the frame of each link, about its origin, in N and N m.
    """

    def __init__(self, task: Task, settings: Settings) -> None:
        self.task, self.settings = task, settings
        self.model = build_model(task, settings)
        self.data = mujoco.MjData(self.model)
        self.joint_forces = np.zeros((2, len(JOINTS)))
        self.fingertip_wrenches = np.zeros((2, 5, 6))
        self._fingertips = fingertip_bodies(self.model)
        self._find_start()
        self._find_controls()
        self._find_damping()
        self._spin = self._find_spin()

    @property
    def has_free_object(self) -> bool:
        """Whether the object moves freely, as bottle and pen do."""
        return self.model.joint(2 * 25).type[0] == mujoco.mjtJoint.mjJNT_FREE

    def reset(self) -> None:
        """Puts everything back to the start; always the same."""
        mujoco.mj_resetData(self.model, self.data)
        # MuJoCo reports the first warning of a kind on the screen and in a file; counting from one keeps it quiet.
        self.data.warning.number[:] = 1
        self.data.qpos[:] = self._start_qpos
        self._targets[:] = self._start_targets
        self._add_weight()
        self.joint_forces[:] = 0.0
        self.fingertip_wrenches[:] = 0.0
        mujoco.mj_step1(self.model, self.data)

    def advance(self, actions: np.ndarray) -> None:
        """One control step.

        Args:
            actions: (2, 26) in [-1, 1], right hand first: base force and torque in world axes at the centre of mass
                of the forearm, then 20 joint targets from the lower (-1) to the upper limit (1).
        """
        np.multiply(actions[:, :BASE_ACTIONS], self._base_scale, out=self._base_wrenches)
        np.multiply(actions[:, BASE_ACTIONS:], self._target_half_range, out=self._targets)
        self._targets += self._target_center
        last = self.settings.substeps - 1
        for substep in range(self.settings.substeps):
            if substep == self.settings.force_substeps:
                self._base_wrenches[:] = 0.0
            self._damp_hands()
            mujoco.mj_step2(self.model, self.data)
            if not self.is_stable():
                return  # collisions of NaN positions take seconds
            if self._spin is not None:
                self._limit_spin(self._spin)
            if substep == last:
                self._read_forces()
            mujoco.mj_step1(self.model, self.data)

    def is_stable(self) -> bool:
        """Whether MuJoCo has given no warning since the reset."""
        return int(self._warnings.max()) == 1

    def warnings(self) -> list[str]:
        """Names of MuJoCo's warnings since the reset."""
        return [mujoco.mjtWarning(index).name for index in np.flatnonzero(self._warnings != 1)]

    def get_state(self) -> np.ndarray:
        """All that the future depends on: positions, velocities, controls, applied forces, warm start of the solver."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        return state

    def set_state(self, state: np.ndarray) -> None:
        """Goes back to what `get_state` returned, in this or another simulation of the same task and settings.

        Raises:
            ValueError: a state of another size.
        """
        expected = (mujoco.mj_stateSize(self.model, _STATE),)
        if np.shape(state) != expected:
            raise ValueError(f"The simulator's state has shape {np.shape(state)}, but {self.task.name} has {expected}.")
        self.reset()
        mujoco.mj_setState(self.model, self.data, np.asarray(state, dtype=np.float64), _STATE)
        mujoco.mj_step1(self.model, self.data)

    def positions(self, state: np.ndarray) -> np.ndarray:
        """(nq,) generalised positions in what `get_state` returned."""
        data = mujoco.MjData(self.model)
        mujoco.mj_setState(self.model, data, np.asarray(state, dtype=np.float64), _STATE)
        return data.qpos

    def _find_start(self) -> None:
        """Generalised positions and joint targets at the start."""
        self._start_qpos = self.model.qpos0.copy()
        for hand in HANDS:
            for joint, position in self.task.start_joints.items():
                self._start_qpos[self.model.joint(hand_name(hand, joint)).qposadr[0]] = position
        driven = self.model.actuator_trnid[:, 0]
        self._start_targets = self._start_qpos[self.model.jnt_qposadr[driven]].reshape(2, -1)
        objects = [index for index in range(self.model.nbody) if self.model.body(index).name.startswith("object/")]
        self._weights = [(body, -GRAVITY * self.model.body_mass[body]) for body in objects if _is_loose(self, body)]

    def _find_controls(self) -> None:
        """Where actions go, as views of the simulator's own arrays."""
        low, high = self.model.actuator_ctrlrange.T.reshape(2, 2, -1)
        self._target_center, self._target_half_range = (high + low) / 2, (high - low) / 2
        self._targets = self.data.ctrl.reshape(2, -1)
        right, left = (self.model.body(hand_name(hand, "forearm")).id for hand in HANDS)
        self._base_wrenches = self.data.xfrc_applied[right : left + 1 : left - right]
        self._base_scale = np.repeat([self.task.max_force, self.task.max_torque], 3)
        self._warnings = self.data.warning.number

    def _find_damping(self) -> None:
        hands = slice(0, 2 * HAND_DOFS)
        self._momentum = np.zeros(self.model.nv)
        self._hand_momentum = self._momentum[hands]
        self._velocity, self._damping_force = self.data.qvel[hands], self.data.qfrc_applied[hands]
        self._armature = self.model.dof_armature[hands].copy()
        self._rotor_momentum = np.zeros(2 * HAND_DOFS)
        self._actuator_force = _joints_of_hands(self.data.qfrc_actuator)
        self._damper_force = _joints_of_hands(self.data.qfrc_damper)

    def _find_spin(self) -> np.ndarray | None:
        """(3,) angular velocity of the object, if it is free and limited."""
        if not self.has_free_object or self.settings.max_object_spin is None:
            return None
        return self.data.qvel[2 * HAND_DOFS + 3 : 2 * HAND_DOFS + 6]

    def _add_weight(self) -> None:
        for body, weight in self._weights:
            self.data.xfrc_applied[body, 2] = weight

    def _damp_hands(self) -> None:
        """Damps every link's momentum: generalised force -100 (M - armature) velocity, for the hands' dofs.

        M without the armature is the sum over the links of J' (mass, inertia) J, so this is a force of
        -100 mass v and a torque of -100 inertia w on every link.
        """
        mujoco.mj_mulM(self.model, self.data, self._momentum, self.data.qvel)
        np.multiply(self._armature, self._velocity, out=self._rotor_momentum)
        np.subtract(self._rotor_momentum, self._hand_momentum, out=self._damping_force)
        self._damping_force *= HAND_DAMPING

    def _limit_spin(self, spin: np.ndarray) -> None:
        squared = spin.dot(spin)
        if squared > self.settings.max_object_spin**2:
            spin *= self.settings.max_object_spin / np.sqrt(squared)

    def _read_forces(self) -> None:
        """Forces of the last substep. Bodies are still where they were when these forces were computed."""
        np.add(self._actuator_force, self._damper_force, out=self.joint_forces)
        if self.data.ncon == 0:
            self.fingertip_wrenches[:] = 0.0
            return
        mujoco.mj_rnePostConstraint(self.model, self.data)
        self.fingertip_wrenches[:] = self._link_wrenches().reshape(2, 5, 6)

    def _link_wrenches(self) -> np.ndarray:
        """(10, 6) force and torque on the fingertip links; MuJoCo has torque and force about the hand's centre."""
        data, links = self.data, self._fingertips
        wrenches = data.cfrc_ext[links]
        arms = data.subtree_com[self.model.body_rootid[links]] - data.xpos[links]
        force, torque = wrenches[:, 3:], wrenches[:, :3] + cross_products(arms, wrenches[:, 3:])
        axes = data.xmat[links].reshape(-1, 3, 3)  # columns are the link's axes
        return np.concatenate([np.einsum("bij,bi->bj", axes, force), np.einsum("bij,bi->bj", axes, torque)], axis=1)


def cross_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(B, 3) row by row; numpy's own is several times slower on a few rows."""
    return first[:, _NEXT] * second[:, _AFTER_NEXT] - first[:, _AFTER_NEXT] * second[:, _NEXT]


def _joints_of_hands(values: np.ndarray) -> np.ndarray:
    """(2, 24) view of an array over dofs: the joints, without the free bases."""
    return values[: 2 * HAND_DOFS].reshape(2, HAND_DOFS)[:, 6:]


def _is_loose(simulation: Simulation, body: int) -> bool:
    """Whether a body can fall: the doors, on vertical hinges, cannot."""
    model = simulation.model
    return bool(model.body_dofnum[model.body_rootid[body]]) and model.body_mass[body] > 0

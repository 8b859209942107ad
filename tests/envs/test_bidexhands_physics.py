"""The physics of the Bi-DexHands port against closed forms."""

import mujoco
import numpy as np
import pytest

from rllib_dima.envs.bidexhands import TASKS
from rllib_dima.envs.bidexhands.settings import Settings
from rllib_dima.envs.bidexhands.simulation import Simulation

HAND_MASS = 5.011  # kg
# Ranges and stiffness of the actuated joints, in the order of the action, as the benchmark's files have them.
FINGER = [(-0.349, 0.349), (0, 1.571), (0, 1.571)]
RANGES = [(-0.489, 0.140), (-0.698, 0.489), *FINGER, *FINGER, *FINGER, (0, 0.785), *FINGER]
RANGES += [(-1.047, 1.047), (0, 1.222), (-0.209, 0.209), (-0.524, 0.524), (-1.571, 0)]
EFFORTS = [4.785, 2.175, *3 * [0.9, 0.9, 0.7245], 0.9, 0.9, 0.9, 0.7245, 2.3722, 1.45, 0.99, 0.99, 0.81]
STIFFNESS = [5, 5, *18 * [1]]
COUPLED = ("FF", "MF", "RF", "LF")


def new_simulation(task="door_open_inward", **settings):
    simulation = Simulation(TASKS[task], Settings(**settings))
    simulation.reset()
    return simulation


def rest_actions(**base):
    """(2, 26): all joints to the middle, and base forces as given: right=(x, y, z), left=..."""
    actions = np.zeros((2, 26))
    for row, hand in enumerate(("right", "left")):
        actions[row, :3] = base.get(hand, (0, 0, 0))
    return actions


def center_speed(simulation, hand):
    mujoco.mj_subtreeVel(simulation.model, simulation.data)
    return simulation.data.subtree_linvel[simulation.model.body(f"{hand}/robot0:hand mount").id].copy()


@pytest.mark.parametrize("task", TASKS)
def test_hands_are_complete(task):
    simulation = new_simulation(task)
    model = simulation.model
    for hand in ("right", "left"):
        mount = model.body(f"{hand}/robot0:hand mount").id
        assert model.body_subtreemass[mount] == pytest.approx(HAND_MASS, abs=1e-9)
    assert (model.nu, model.ntendon, model.npair) == (40, 8, 38)
    assert model.nv == {"bottle_cap": 68, "pen": 67}.get(task, 62)
    assert model.opt.timestep == pytest.approx(1 / 240) and model.opt.jacobian == mujoco.mjtJacobian.mjJAC_DENSE


def test_actions_set_joint_targets_in_the_order_of_the_action():
    simulation = new_simulation()
    rng = np.random.default_rng(0)
    actions = np.concatenate([np.zeros((2, 6)), rng.uniform(-1, 1, (2, 20))], axis=1)
    simulation.advance(actions)
    low, high = np.array(RANGES).T
    expected = low + (actions[:, 6:] + 1) / 2 * (high - low)
    np.testing.assert_allclose(simulation.data.ctrl.reshape(2, 20), expected, atol=1e-12)
    driven = [simulation.model.joint(index).name for index in simulation.model.actuator_trnid[:, 0]]
    order = "WRJ1 WRJ0 FFJ3 FFJ2 FFJ1 MFJ3 MFJ2 MFJ1 RFJ3 RFJ2 RFJ1 LFJ4 LFJ3 LFJ2 LFJ1 THJ4 THJ3 THJ2 THJ1 THJ0"
    assert driven == [f"{hand}/robot0:{joint}" for hand in ("right", "left") for joint in order.split()]


def test_joint_forces_are_those_of_limited_springs_and_dampers():
    simulation = new_simulation(substeps=1)
    rng = np.random.default_rng(1)
    model, data = simulation.model, simulation.data
    for _ in range(2):  # in the second step, joints move
        position, velocity = data.qpos.copy(), data.qvel.copy()
        actions = np.concatenate([np.zeros((2, 6)), rng.choice([-1.0, 1.0], (2, 20))], axis=1)
        simulation.advance(actions)
    expected = np.zeros(simulation.joint_forces.shape)
    low, high = np.array(RANGES).T
    targets = (low + (actions[:, 6:] + 1) / 2 * (high - low)).reshape(-1)
    for index, joint in enumerate(model.actuator_trnid[:, 0]):
        pull = STIFFNESS[index % 20] * (targets[index] - position[model.jnt_qposadr[joint]])
        row, column = divmod(model.jnt_dofadr[joint] - 6, 30)
        expected[row, column] = np.clip(pull, -EFFORTS[index % 20], EFFORTS[index % 20])
    damping = np.array([0.5, 0.5, *[0.1] * 22])
    expected -= damping * velocity[:60].reshape(2, 30)[:, 6:]
    np.testing.assert_allclose(simulation.joint_forces, expected, atol=1e-12)
    assert np.abs(velocity[:60].reshape(2, 30)[:, 6:]).min() > 0


@pytest.mark.parametrize(("task", "action", "speed"), [("bottle_cap", 1.0, 0.333), ("pen", 0.3, 0.499)])
def test_base_moves_at_the_speed_at_which_damping_balances_the_force(task, action, speed):
    simulation = new_simulation(task)
    up = rest_actions(right=(0, 0, action), left=(0, 0, action))
    for _ in range(10):
        simulation.advance(up)
    expected = action * TASKS[task].max_force / (100 * HAND_MASS)
    assert expected == pytest.approx(speed, abs=1e-3)
    np.testing.assert_allclose(center_speed(simulation, "right"), (0, 0, expected), atol=2e-3 * speed)


def test_damping_acts_on_the_momentum_of_every_link():
    simulation = new_simulation("bottle_cap")
    model, data = simulation.model, simulation.data
    data.qvel[:] = np.random.default_rng(0).normal(size=model.nv)
    mujoco.mj_step1(model, data)
    simulation._damp_hands()
    expected = np.zeros(model.nv)
    linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    for body in range(1, model.nbody):
        if model.body(body).name.startswith("object/"):
            continue
        mujoco.mj_jacBodyCom(model, data, linear, angular, body)
        axes = data.ximat[body].reshape(3, 3)
        inertia = axes @ np.diag(model.body_inertia[body]) @ axes.T
        expected -= 100 * model.body_mass[body] * linear.T @ (linear @ data.qvel)
        expected -= 100 * angular.T @ inertia @ (angular @ data.qvel)
    np.testing.assert_allclose(data.qfrc_applied, expected, atol=1e-8)
    assert not data.qfrc_applied[60:].any() and (np.abs(expected[:60]) > 1e-6).all()


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_base_speed_follows_the_damped_equation_of_motion_from_substep_to_substep(fraction):
    simulation = new_simulation(base_force_fraction=fraction)
    action, speed = np.array([0.1, -0.05, 0.2]), np.zeros(3)
    for _ in range(4):
        simulation.advance(rest_actions(right=action))
        for substep in range(4):
            force = action * TASKS["door_open_inward"].max_force * (substep < 4 * fraction)
            speed = speed + (force / HAND_MASS - 100 * speed) / 240
        np.testing.assert_allclose(center_speed(simulation, "right"), speed, rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(center_speed(simulation, "left"), 0, atol=1e-3)


def test_torque_turns_the_hand_about_world_axes():
    simulation = new_simulation()
    actions = rest_actions()
    actions[0, 3:6] = (0, 0, 0.3)
    for _ in range(10):
        simulation.advance(actions)
    spin = simulation.data.cvel[simulation.model.body("right/robot0:forearm").id, :3]
    assert spin[2] > 0.5 and np.abs(spin[:2]).max() < 0.3 * spin[2]


def test_nothing_pulls_the_hands_down():
    simulation = new_simulation("pen")
    before = simulation.data.subtree_com[1].copy()
    still = rest_actions()
    for _ in range(20):
        simulation.advance(still)
    assert abs(simulation.data.subtree_com[1][2] - before[2]) < 2e-3


def test_the_bottle_falls_as_any_body():
    simulation = new_simulation("bottle_cap")
    data = simulation.data
    data.qpos[62:65] = (3.0, 3.0, 1.5)  # away from the hands
    mujoco.mj_step1(simulation.model, data)
    start = data.qpos[64]
    for _ in range(12):
        simulation.advance(rest_actions())
    time = 12 / 60
    assert data.qvel[62] == pytest.approx(-9.81 * time, rel=1e-3)
    assert data.qpos[64] - start == pytest.approx(-9.81 * time**2 / 2, rel=0.03)


def test_last_finger_joints_follow_within_a_dead_band():
    simulation = new_simulation()
    model, data = simulation.model, simulation.data
    columns = [6 + 2 + 3 * finger + 2 for finger in range(3)] + [6 + 14]
    actions = rest_actions()
    actions[:, np.array(columns) - 1] = -1.0  # straight at the knuckles, so that nothing touches the palm
    for target, side in ((0.4, -1), (-0.6, 1)):  # the coupling pulls when bending and pushes when stretching
        actions[:, columns] = target
        for _ in range(120):
            simulation.advance(actions)
        for finger in COUPLED:
            near, far = (data.joint(f"right/robot0:{finger}J{number}").qpos[0] for number in (1, 0))
            assert near == pytest.approx((1 + target) / 2 * 1.571, abs=0.06)
            assert far == pytest.approx(1.142 * near + side * 0.142, abs=0.02)
    assert {model.tendon(index).name.split("_")[1] for index in range(8)} == {"FFJ1c", "MFJ1c", "RFJ1c", "LFJ1c"}


def contact_wrenches(simulation):
    """(2, 5, 6) contact force and torque on the fingers' last links, summed over contacts one by one."""
    model, data = simulation.model, simulation.data
    result, wrench = np.zeros((2, 5, 6)), np.zeros(6)
    for index, contact in enumerate(data.contact):
        mujoco.mj_contactForce(model, data, index, wrench)
        axes = contact.frame.reshape(3, 3)
        for geom, sign in ((contact.geom1, -1), (contact.geom2, 1)):
            body = model.body(model.geom_bodyid[geom]).name
            hand, _, link = body.partition("/robot0:")
            if not link.endswith("distal"):
                continue
            force, torque = sign * axes.T @ wrench[:3], sign * axes.T @ wrench[3:]
            torque = torque + np.cross(contact.pos - data.body(body).xpos, force)
            rotation = data.body(body).xmat.reshape(3, 3)
            row = ("right", "left").index(hand), ("ff", "mf", "rf", "lf", "th").index(link[:2])
            result[row] += np.concatenate([rotation.T @ force, rotation.T @ torque])
    return result


def test_fingertip_wrenches_are_the_sums_over_contacts(monkeypatch):
    simulation = new_simulation("bottle_cap")
    expected, read = [], simulation._read_forces
    monkeypatch.setattr(simulation, "_read_forces", lambda: (expected.append(contact_wrenches(simulation)), read()))
    actions = rest_actions()
    actions[1, 8:] = 1.0  # the left hand closes around the bottle
    actions[1, -1] = -1.0
    touched = set()
    for _ in range(60):
        simulation.advance(actions)
        np.testing.assert_allclose(simulation.fingertip_wrenches, expected[-1], atol=1e-9)
        touched |= {tuple(finger) for finger in np.argwhere(np.abs(expected[-1]).sum(axis=-1) > 0.05)}
    assert len(touched) >= 3


def object_forces(simulation):
    """Spring forces on the joints of the object."""
    return simulation.data.qfrc_spring[60:]


def test_springs_of_doors_pull_only_if_asked_to():
    for springs, expected in ((True, -5.0), (False, 0.0)):
        simulation = new_simulation("door_open_outward", object_springs=springs)
        simulation.data.qpos[62:64] = 1.0
        mujoco.mj_step1(simulation.model, simulation.data)
        np.testing.assert_allclose(object_forces(simulation), [expected] * 2)
        simulation.advance(rest_actions())
        assert (simulation.data.qpos[62:64] < 0.999).all() == springs


def test_objects_weigh_what_they_should():
    bottle, pen = new_simulation("bottle_cap"), new_simulation("pen")
    assert bottle.model.body("object/root").subtreemass[0] == pytest.approx(0.6, abs=0.01)
    assert pen.model.body("object/root").subtreemass[0] == pytest.approx(0.077, abs=1e-6)
    door = new_simulation().model
    assert 3.59 < door.body("object/left").mass[0] <= 4.25
    heavy = new_simulation("bottle_cap", empty_link_mass=1.0).model
    extra = heavy.body("object/root").subtreemass[0] - bottle.model.body("object/root").subtreemass[0]
    assert extra == pytest.approx(2.0, abs=1e-3)  # base and helper


def test_the_object_spins_no_faster_than_its_limit():
    simulation = new_simulation("pen")
    simulation.data.qpos[64] = 1.5
    simulation.data.qvel[63:66] = (0, 0, 300.0)
    simulation.advance(rest_actions())
    assert np.linalg.norm(simulation.data.qvel[63:66]) == pytest.approx(64.0, rel=0.2)
    free = new_simulation("pen", max_object_spin=None)
    free.data.qpos[64] = 1.5
    free.data.qvel[63:66] = (0, 0, 300.0)
    free.advance(rest_actions())
    assert np.linalg.norm(free.data.qvel[63:66]) > 200


def test_doors_open_away_from_the_hands_or_towards_them():
    for task, side in (("door_open_inward", 1), ("door_open_outward", -1)):
        simulation = new_simulation(task)
        data = simulation.data
        closed = [data.site(f"object/point_{index}").xpos.copy() for index in (0, 1)]
        data.qpos[62:64] = 0.5
        mujoco.mj_kinematics(simulation.model, data)
        for index, point in enumerate(closed):
            moved = data.site(f"object/point_{index}").xpos - point
            assert side * moved[0] > 0.15 and abs(moved[2]) < 1e-3


def push_and_shake(task, num_steps):
    """Every action at its limit at random, and in every other step the hands pushed into the object."""
    simulation = new_simulation(task)
    rng = np.random.default_rng(0)
    for step in range(num_steps):
        if step % TASKS[task].episode_steps == 0:
            simulation.reset()
        actions = rng.choice([-1.0, 1.0], (2, 26))
        if step % 2:
            palms = [simulation.data.site(f"{hand}/palm_point").xpos for hand in ("right", "left")]
            actions[:, :3] = np.sign(simulation.data.site("object/point_1").xpos - np.array(palms))
        simulation.advance(actions)
        assert simulation.is_stable() and np.isfinite(simulation.data.qpos).all()
        assert np.abs(simulation.data.qvel).max() < 200


@pytest.mark.parametrize("task", TASKS)
def test_hands_that_push_with_full_force_keep_the_simulation_stable(task):
    push_and_shake(task, 120)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_hands_that_push_with_full_force_keep_the_simulation_stable_for_long(task):
    push_and_shake(task, 5000)

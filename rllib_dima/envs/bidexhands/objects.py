"""The objects of the tasks, built from primitives: bottle with cap, double door, pen with cap.

Sizes and joint frames are those of the benchmark's objects, whose meshes cannot be shipped. They are written in the
frame of the meshes, whose y points up and whose -z and -x are the base link's x and y; `MESH_ROTATION` turns it.
Every object has the points of `tasks.Points.targets` as sites "object/point_0", "object/point_1", ...

Left out are the benchmark's limits of the joints' speed (100, pen 1 m/s) and of the springs' pull (100).

MuJoCo takes the larger friction of two bodies and PhysX their average, so every object has the average, with priority.
Parts of an object do not collide with each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mujoco
import numpy as np

from rllib_dima.envs.bidexhands.settings import Settings
from rllib_dima.envs.bidexhands.tasks import Task

MESH_ROTATION = (np.pi / 2, 0.0, -np.pi / 2)  # roll, pitch, yaw of the mesh frame in the base link
DENSITY = 500.0  # kg / m^3, as the benchmark asks for
BOTTLE_DENSITY = 580.0  # makes 0.6 kg, as in the benchmark, whose convex hulls overlap
SOLID = {"contype": 3, "conaffinity": 3}  # collides with both hands, objects and everything fixed
OBJECT = {"contype": 3, "conaffinity": 0, "priority": 1, "density": DENSITY}  # not with itself or other objects
UNSEEN_SITE = {"group": 4, "size": [0.005, 0.005, 0.005]}

BOTTLE_PROFILE = (
    (-0.1256, -0.1150, 0.0360),
    (-0.1150, -0.0300, 0.0395),
    (-0.0300, 0.0000, 0.0360),
    (0.0000, 0.0400, 0.0335),
    (0.0400, 0.0700, 0.0360),
    (0.0700, 0.0900, 0.0386),
    (0.0900, 0.1050, 0.0340),
    (0.1050, 0.1200, 0.0240),
    (0.1200, 0.1393, 0.0125),
)
"""Cylinders of the bottle: lower end, upper end, radius."""

BOX = mujoco.mjtGeom.mjGEOM_BOX
CAPSULE = mujoco.mjtGeom.mjGEOM_CAPSULE
CYLINDER = mujoco.mjtGeom.mjGEOM_CYLINDER
HINGE = mujoco.mjtJoint.mjJNT_HINGE
SLIDE = mujoco.mjtJoint.mjJNT_SLIDE


def add_object(spec: mujoco.MjSpec, task: Task, settings: Settings) -> None:
    """Adds a task's object, at its start pose, and the table if there is one.

    Args:
        spec: the scene; angles in radians; with the materials of `scene.py`.
        task: which object, and where.
        settings: masses, springs, friction, height of the pen.
    """
    if task.name == "bottle_cap":
        _add_table(spec, position=(0.0, -0.6, 0.05), size=(0.3, 0.3, 0.1))
        _add_bottle(spec, task, settings)
    elif task.name == "pen":
        _add_table(spec, position=(0.0, 0.0, 0.3), size=(0.5, 1.0, 0.6))
        _add_pen(spec, task, settings)
    else:
        _add_doors(spec, task, settings, handle_depth=0.04 if task.name == "door_open_inward" else -0.04)


def quaternion(euler: tuple[float, float, float]) -> np.ndarray:
    """(4,) w, x, y, z of roll, pitch, yaw: R = Rz Ry Rx."""
    result = np.zeros(4)
    mujoco.mju_euler2Quat(result, np.array(euler, dtype=np.float64), "XYZ")
    return result


def _add_table(spec: mujoco.MjSpec, position: tuple, size: tuple) -> None:
    """A fixed box. The benchmark's pen table is not fixed, but weighs 300 kg."""
    half = [side / 2 for side in size]
    spec.worldbody.add_geom(name="table", type=BOX, pos=position, size=half, material="table", **SOLID)


def _add_root(spec: mujoco.MjSpec, position: tuple, euler: tuple, is_free: bool) -> tuple:
    """The base link, and fixed to it the first link, in the frame of the meshes."""
    root = spec.worldbody.add_body(name="object/root", pos=position, quat=quaternion(euler))
    if is_free:
        root.add_freejoint(name="object/free")
    return root, root.add_body(name="object/body", quat=quaternion(MESH_ROTATION))


def _set_empty_mass(body: mujoco.MjsBody, mass: float) -> None:
    """Mass and inertia of a link without geometry."""
    if mass > 0:
        body.mass, body.inertia, body.explicitinertial = mass, [mass] * 3, True


def _add_joint(body: mujoco.MjsBody, name: str, kind: mujoco.mjtJoint, axis: tuple, **attributes: Any) -> None:
    """A joint with a spring to zero and a damper."""
    body.add_joint(name=f"object/{name}", type=kind, axis=axis, springref=0.0, **attributes)


def _add_cylinder(
    body: mujoco.MjsBody, kind: mujoco.mjtGeom, start: Iterable, end: Iterable, radius: float, **look
) -> None:
    """A cylinder or capsule between two points."""
    body.add_geom(type=kind, fromto=[*start, *end], size=[radius, 0, 0], **look)


def _add_bottle(spec: mujoco.MjSpec, task: Task, settings: Settings) -> None:
    """Bottle with a cap that slides 6.4 cm off along the bottle's axis and turns about it."""
    root, bottle = _add_root(spec, *task.object_start, is_free=True)
    _set_empty_mass(root, settings.empty_link_mass)
    look = {**OBJECT, "density": BOTTLE_DENSITY, "friction": [settings.bottle_friction, 0.005, 0.0001]}
    for low, high, radius in BOTTLE_PROFILE:
        ends = (0.001, low, 0.001), (0.001, high, 0.001)
        _add_cylinder(bottle, CYLINDER, *ends, radius, material="bottle", **look)
    helper = bottle.add_body(name="object/helper", pos=(0.007006, 0.0, 0.007542))
    _set_empty_mass(helper, max(settings.empty_link_mass, 1e-4))
    spring = {"stiffness": 5.0 * settings.object_springs, "damping": 1.0, "armature": 1e-3}
    _add_joint(helper, "slide", SLIDE, (0, 1, 0), limited=True, range=[0, 0.064], **spring)
    cap = helper.add_body(name="object/cap")
    _add_joint(cap, "turn", HINGE, (0, 1, 0), limited=False, **spring)
    ends = (-0.006006, 0.1393, -0.006542), (-0.006006, 0.1496, -0.006542)
    _add_cylinder(cap, CYLINDER, *ends, 0.0129, material="cap", **{**look, "mass": 0.0026})
    root.add_site(name="object/point_0", **UNSEEN_SITE)
    root.add_site(name="object/point_1", pos=(0, 0, 0.15), **UNSEEN_SITE)
    cap.add_site(name="object/point_2", **UNSEEN_SITE)


def _add_pen(spec: mujoco.MjSpec, task: Task, settings: Settings) -> None:
    """Pen with a cap that slides off along the pen."""
    x, y, _ = task.object_start.position
    root, body = _add_root(spec, (x, y, settings.pen_height), task.object_start.euler, is_free=True)
    root.first_joint().armature = 1e-4  # without it, hands that squeeze the pen make it spin up without bound
    _set_empty_mass(root, settings.empty_link_mass)
    look = {**OBJECT, "friction": [1.0, 0.005, 0.0001]}
    _add_cylinder(body, CAPSULE, (0, -0.1485, 0), (0, 0.1895, 0), 0.0105, material="pen", **{**look, "mass": 0.050})
    cap = body.add_body(name="object/cap")
    spring = {"stiffness": 1.0 * settings.object_springs, "damping": 0.5, "armature": 1e-3}
    _add_joint(cap, "slide", SLIDE, (0, -1, 0), limited=True, range=[0, 0.492], **spring)
    _add_cylinder(cap, CAPSULE, (0, -0.1605, 0), (0, -0.052, 0), 0.0115, material="cap", **{**look, "mass": 0.026})
    clip = {"pos": (0, -0.085, 0.0185), "size": (0.003, 0.03, 0.0045), "mass": 0.001}
    cap.add_geom(type=BOX, material="metal", **{**look, **clip})
    cap.add_site(name="object/point_0", pos=(0, -0.1, 0), **UNSEEN_SITE)
    body.add_site(name="object/point_1", pos=(0, 0.07, 0), **UNSEEN_SITE)


def _add_doors(spec: mujoco.MjSpec, task: Task, settings: Settings, handle_depth: float) -> None:
    """Double door in a frame; each half turns by up to 90 degrees about its outer edge."""
    _, frame = _add_root(spec, *task.object_start, is_free=False)
    for name, height in (("sill", -0.478), ("lintel", 0.478)):
        strip = {"pos": (0, height, 0), "size": (0.5, 0.013, 0.02), "friction": [0.55, 0.005, 0.0001]}
        frame.add_geom(name=f"object/{name}", type=BOX, material="wood", **OBJECT, **strip)
    halves = (("right", -1, (-0.426527, 0.483292, 0.008462), -0.052), ("left", 1, (0.420407, 0.483292, 0.0056), 0.044))
    for name, side, hinge, handle in halves:
        door = frame.add_body(name=f"object/{name}", pos=hinge)
        spring = {"stiffness": 5.0 * settings.object_springs, "damping": 1.0, "armature": 0.01}
        _add_joint(door, f"{name}_hinge", HINGE, (0, side, 0), limited=True, range=[0, 1.571], **spring)
        _add_door_geoms(door, origin=np.array(hinge), side=side, handle=handle)
    points = (("left", (-0.39, -0.5, handle_depth)), ("right", (0.39, -0.5, handle_depth)))
    for index, (name, point) in enumerate(points):
        spec.body(f"object/{name}").add_site(name=f"object/point_{index}", pos=point, **UNSEEN_SITE)


def _add_door_geoms(door: mujoco.MjsBody, origin: np.ndarray, side: int, handle: float) -> None:
    """Panel, and a handle on either face, in the door's frame from coordinates of the whole door.

    Args:
        door: the body.
        origin: the hinge.
        side: -1 for the half at negative x, +1 for the other.
        handle: x of the handle's bar.
    """
    look = {**OBJECT, "friction": [0.55, 0.005, 0.0001]}
    panel = np.array((side * 0.2205, 0.0, 0.0)) - origin
    door.add_geom(type=BOX, pos=panel, size=(0.2195, 0.4625, 0.009), material="glass", **look)
    for face in (-1, 1):
        bar = [np.array((handle, height, face * 0.0735)) - origin for height in (-0.1755, 0.0895)]
        foot = [np.array((handle, height, face * 0.009)) - origin for height in (-0.1755, 0.0895)]
        for start, end in ((bar[0], bar[1]), (foot[0], bar[0]), (foot[1], bar[1])):
            _add_cylinder(door, CAPSULE, start, end, 0.0175, material="handle", **look)

"""The MuJoCo model of a task: two Shadow Hands, the object, floor, lights and camera.

The hands are Gymnasium-Robotics' Shadow Hand, whose bodies, meshes and joints are those of the benchmark's files. As
there, both are right hands, float freely without gravity, and keep of the tendons only those which couple the last two
joints of a finger. The scene has no gravity at all: `simulation.py` applies the object's weight, which is cheaper than
compensating the hands'.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import mujoco
import numpy as np

from rllib_dima.envs.bidexhands.objects import SOLID, UNSEEN_SITE, add_object, quaternion
from rllib_dima.envs.bidexhands.settings import Settings
from rllib_dima.envs.bidexhands.tasks import CONTROL_FREQUENCY, FINGERS, Pose, Task

HANDS = ("right", "left")
CONTACT_BITS = {"right": (1, 2), "left": (2, 1)}  # contype, conaffinity: hands touch each other, but not themselves
COUPLING_TENDONS = ("T_FFJ1c", "T_MFJ1c", "T_RFJ1c", "T_LFJ1c")
PALM_POINT = (0.0, -0.02, 0.08)  # in the palm's frame
FINGERTIP_POINT = (0.0, 0.0, 0.02)  # in the frame of a finger's last link
COLLISION_GROUP = 4  # of the hand's geoms that collide

IMAGE_WIDTH, IMAGE_HEIGHT = 640, 480
CAMERA = "view"
CAMERAS = {
    "bottle_cap": ((1.12, -0.98, 0.98), (0.0, -0.63, 0.46)),
    "door_open_inward": ((1.75, -0.95, 1.35), (0.15, 0.0, 0.66)),
    "door_open_outward": ((1.75, -0.95, 1.35), (0.15, 0.0, 0.66)),
    "pen": ((-0.85, -0.75, 1.35), (0.16, 0.0, 0.62)),
}
"""Per task the position of the camera and the point it looks at."""

MATERIALS = {
    "table": {"rgba": (0.62, 0.54, 0.46, 1), "specular": 0.2, "shininess": 0.3},
    "bottle": {"rgba": (0.25, 0.50, 0.85, 1), "specular": 0.7, "shininess": 0.7},
    "cap": {"rgba": (0.88, 0.22, 0.16, 1), "specular": 0.6, "shininess": 0.6},
    "pen": {"rgba": (0.12, 0.22, 0.65, 1), "specular": 0.8, "shininess": 0.8},
    "metal": {"rgba": (0.80, 0.80, 0.82, 1), "specular": 1.0, "shininess": 0.9},
    "handle": {"rgba": (0.83, 0.66, 0.25, 1), "specular": 1.0, "shininess": 0.8},
    "glass": {"rgba": (0.55, 0.74, 0.86, 0.5), "specular": 0.9, "shininess": 0.9},
    "wood": {"rgba": (0.48, 0.33, 0.20, 1), "specular": 0.2, "shininess": 0.2},
}


def build_model(task: Task, settings: Settings) -> mujoco.MjModel:
    """The compiled model, in its start pose. Takes about 0.1 s.

    Generalised coordinates: right hand (7 of the free base and 24 joints), left hand, object.

    Args:
        task: which hands' poses and which object.
        settings: number of substeps, and what concerns the object.

    Raises:
        FileNotFoundError: Gymnasium-Robotics, which has the hand, is not installed.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    _set_options(spec, settings)
    _add_surroundings(spec, task)
    _add_hand(spec, "right", task.right_start)
    _add_hand(spec, "left", task.left_start)
    add_object(spec, task, settings)
    return spec.compile()


def hand_name(hand: str, name: str) -> str:
    """Name in the model of a hand's body, joint, geom or tendon."""
    return f"{hand}/robot0:{name}"


def fingertip_bodies(model: mujoco.MjModel) -> np.ndarray:
    """(10,) ids of the last links of the fingers, right hand first, in the order of `FINGERS`."""
    names = [hand_name(hand, f"{finger}distal") for hand in HANDS for finger in FINGERS]
    return np.array([model.body(name).id for name in names])


def point_sites(model: mujoco.MjModel) -> np.ndarray:
    """(12 + T,) ids of the sites at the points of `tasks.Points`: fingers right, left, palms right, left, T targets."""
    names = [f"{hand}/{finger}_point" for hand in HANDS for finger in FINGERS]
    names += [f"{hand}/palm_point" for hand in HANDS]
    targets = [model.site(index).name for index in range(model.nsite) if model.site(index).name.startswith("object/")]
    return np.array([model.site(name).id for name in names + sorted(targets)])


def _set_options(spec: mujoco.MjSpec, settings: Settings) -> None:
    option = spec.option
    option.timestep = 1.0 / (CONTROL_FREQUENCY * settings.substeps)
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    # The sparse Hessian of some MuJoCo versions is wrong under heavy contact; the dense one is right in all of them.
    option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    option.iterations = 50
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC  # pyramidal cones let the bottle creep through the fingers
    option.impratio = 10.0
    option.gravity = [0.0, 0.0, 0.0]
    # The environment ends an episode that became unstable; MuJoCo would put the robot back and go on.
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    spec.memory = 64 * 2**20


def _add_surroundings(spec: mujoco.MjSpec, task: Task) -> None:
    """Materials, floor, sky, lights and camera."""
    for name, look in MATERIALS.items():
        spec.add_material(name=name, **look)
    _add_floor(spec)
    sky = {"type": mujoco.mjtTexture.mjTEXTURE_SKYBOX, "builtin": mujoco.mjtBuiltin.mjBUILTIN_GRADIENT}
    spec.add_texture(name="sky", rgb1=(0.75, 0.82, 0.90), rgb2=(0.32, 0.40, 0.50), width=256, height=1536, **sky)
    _add_lights(spec)
    position, target = CAMERAS[task.name]
    spec.worldbody.add_camera(name=CAMERA, pos=position, quat=_look_at(position, target), fovy=42.0)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1920, 1440
    spec.visual.quality.shadowsize, spec.visual.quality.offsamples = 4096, 8
    spec.visual.map.znear, spec.visual.map.zfar = 0.05, 30.0
    spec.visual.map.shadowclip, spec.visual.rgba.haze = 6.0, (0.62, 0.68, 0.74, 1)
    spec.stat.extent, spec.stat.center = 1.0, target


def _add_floor(spec: mujoco.MjSpec) -> None:
    checker = {"type": mujoco.mjtTexture.mjTEXTURE_2D, "builtin": mujoco.mjtBuiltin.mjBUILTIN_CHECKER}
    colors = {"rgb1": (0.46, 0.51, 0.56), "rgb2": (0.40, 0.45, 0.50)}
    spec.add_texture(name="tiles", width=512, height=512, **checker, **colors)
    floor = spec.add_material(name="floor", texrepeat=(1.5, 1.5), texuniform=True, reflectance=0.0, specular=0.1)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    spec.worldbody.add_geom(name="floor", type=plane, size=(0, 0, 0.05), material="floor", **SOLID)


def _add_lights(spec: mujoco.MjSpec) -> None:
    spec.visual.headlight.ambient = (0.28, 0.28, 0.30)
    spec.visual.headlight.diffuse = (0.22, 0.22, 0.22)
    spec.visual.headlight.specular = (0.05, 0.05, 0.05)
    sun = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    key = {"pos": (0.6, -0.9, 3.0), "dir": (-0.16, 0.26, -0.95), "diffuse": (0.55, 0.54, 0.51)}
    fill = {"pos": (1.0, 2.0, 2.0), "dir": (-0.3, -0.7, -0.5), "diffuse": (0.16, 0.17, 0.20)}
    spec.worldbody.add_light(name="key", type=sun, castshadow=True, specular=(0.3, 0.3, 0.3), **key)
    spec.worldbody.add_light(name="fill", type=sun, castshadow=False, specular=(0, 0, 0), **fill)


def _look_at(position: tuple, target: tuple) -> np.ndarray:
    """(4,) quaternion of a camera at `position` that looks at `target`, with z up."""
    back = np.subtract(position, target) / np.linalg.norm(np.subtract(position, target))
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(back, right), back], axis=1)
    result = np.zeros(4)
    mujoco.mju_mat2Quat(result, rotation.reshape(-1))
    return result


def _add_hand(spec: mujoco.MjSpec, hand: str, start: Pose) -> None:
    """Attaches a hand with a free base; the rotation of its first link in its own file is kept, as Isaac Gym does."""
    hand_spec = _load_hand(hand)
    frame = spec.worldbody.add_frame(pos=start.position, quat=quaternion(start.euler))
    mount = frame.attach_body(hand_spec.body("robot0:hand mount"), f"{hand}/", "")
    mount.add_freejoint(name=f"{hand}/free")


def _load_hand(hand: str) -> mujoco.MjSpec:
    """The Shadow Hand as the benchmark uses it."""
    spec = mujoco.MjSpec.from_string(_hand_xml())
    spec.body("robot0:hand mount").pos = (0.0, 0.0, 0.0)
    _discard_unused(spec)
    for geom in spec.geoms:
        collides = geom.group == COLLISION_GROUP
        geom.contype, geom.conaffinity = CONTACT_BITS[hand] if collides else (0, 0)
    for finger in FINGERS:
        tip = spec.body(f"robot0:{finger}distal")
        tip.add_site(name=f"{finger}_point", pos=FINGERTIP_POINT, **UNSEEN_SITE)
    spec.body("robot0:palm").add_site(name="palm_point", pos=PALM_POINT, **UNSEEN_SITE)
    return spec


def _discard_unused(spec: mujoco.MjSpec) -> None:
    """Removes sensors, sites, textures and the tendons whose limits would fight the joints."""
    for material in spec.materials:
        material.textures = [""] * len(material.textures)
        material.reflectance = 0.0
    kept = {f"robot0:{name}" for name in COUPLING_TENDONS}
    tendons = [tendon for tendon in spec.tendons if tendon.name not in kept]
    for element in [*spec.sensors, *tendons, *spec.sites, *spec.textures]:
        spec.delete(element)
    spec.nuser_jnt = spec.nuser_site = spec.nuser_tendon = spec.nuser_sensor = spec.nuser_actuator = -1
    spec.njmax = spec.nconmax = spec.nstack = -1


@functools.cache
def _hand_xml() -> str:
    """The parts of Gymnasium-Robotics' hand, put together."""
    package = importlib.util.find_spec("gymnasium_robotics")  # located, because importing it imports a great deal
    if package is None or package.origin is None:
        raise FileNotFoundError("The Shadow Hand comes with Gymnasium-Robotics: pip install gymnasium-robotics.")
    assets = Path(package.origin).parent / "envs" / "assets"
    hand = assets / "hand"
    return f"""<mujoco>
        <compiler angle="radian" meshdir="{assets / "stls" / "hand"}"/>
        <include file="{hand / "shared.xml"}"/>
        <asset><include file="{hand / "shared_asset.xml"}"/></asset>
        <worldbody><include file="{hand / "robot.xml"}"/></worldbody>
    </mujoco>"""

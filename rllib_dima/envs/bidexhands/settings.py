"""What the benchmark's files leave open, because only Isaac Gym could settle it: parameters with defaults."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from rllib_dima.core.names import check_name

RootRotation = Literal["start_pose", "link"]
ROOT_ROTATIONS = ("start_pose", "link")
LinkVelocity = Literal["center_of_mass", "origin"]
LINK_VELOCITIES = ("center_of_mass", "origin")


@dataclass(frozen=True)
class Settings:
    """Parameters of the simulation. None of them changes sizes, rewards, terminations or resets of hands and doors.

    Args:
        substeps: physics steps per control step of 1/60 s. With 2, the benchmark's number, the pen is only marginally
            stable.
        episode_steps: control steps until the time limit; None: the task's own.
        object_springs: whether the springs of the object's joints pull (5 N/m and 5 N m/rad, pen 1 N/m); their
            dampers always do. The benchmark configures the springs, but drives doors and pen in a mode in which Isaac
            Gym may ignore them.
        base_force_fraction: the part of a control step during which the base force and torque act. Isaac Gym may
            apply them in the first of its two substeps only: 0.5. The speed of the base follows it.
        empty_link_mass: kg, and as many kg m^2, of the links without geometry (base of bottle and pen, and a helper
            between the bottle and its cap); PhysX may give them 1.
        bottle_friction: between bottle and hands; PhysX's average is 50.5, which a soft contact cannot use. From
            about 5 on nothing slips any more.
        pen_height: z of the pen at the reset, in m. The benchmark starts it at 0.6, half inside the table, from where
            PhysX ejects it; 0.6125 is just above the table.
        max_object_spin: rad/s, above which the object's rotation is slowed down, as PhysX does; None: no limit.
        root_rotation: the rotation of the root of a hand that is observed: "start_pose" is the start pose itself at
            the reset, "link" the rotation of the hand's first link, which differs by a constant.
        link_velocity: the point whose velocity counts as that of a fingertip link: its "center_of_mass", as in PhysX,
            or its "origin".

    Raises:
        ValueError: a value that is not possible.
    """

    substeps: int = 4
    episode_steps: int | None = None
    object_springs: bool = True
    base_force_fraction: float = 1.0
    empty_link_mass: float = 0.0
    bottle_friction: float = 5.0
    pen_height: float = 0.6125
    max_object_spin: float | None = 64.0
    root_rotation: RootRotation = "start_pose"
    link_velocity: LinkVelocity = "center_of_mass"

    def __post_init__(self) -> None:
        """Checks every value."""
        _require_count("substeps", self.substeps)
        if self.episode_steps is not None:
            _require_count("episode_steps", self.episode_steps)
        _require_number("base_force_fraction", self.base_force_fraction, low=0.0, high=1.0)
        _require_number("empty_link_mass", self.empty_link_mass, low=0.0)
        _require_number("bottle_friction", self.bottle_friction, low=0.0)
        _require_number("pen_height", self.pen_height)
        if self.max_object_spin is not None:
            _require_number("max_object_spin", self.max_object_spin, low=0.0)
        check_name(self.root_rotation, ROOT_ROTATIONS, "root_rotation")
        check_name(self.link_velocity, LINK_VELOCITIES, "link_velocity")
        if not math.isclose(self.force_substeps, self.base_force_fraction * self.substeps):
            raise ValueError(
                f"base_force_fraction={self.base_force_fraction} is no whole number of the {self.substeps} substeps; "
                f"give a multiple of 1/{self.substeps}."
            )

    @property
    def force_substeps(self) -> int:
        """Substeps, from the first on, in which the base force acts."""
        return round(self.base_force_fraction * self.substeps)


SETTING_NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, but it must be an integer of at least 1.")


def _require_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        bounds = f" between {low:g} and {high:g}" if math.isfinite(low) or math.isfinite(high) else ""
        raise ValueError(f"{name} is {value!r}, but it must be a finite number{bounds}.")

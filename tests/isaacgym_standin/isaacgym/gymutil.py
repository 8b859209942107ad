"""Isaac Gym's parser: of the process's own command line."""

import argparse


def parse_arguments(description, custom_parameters):
    """Isaac Gym's own options and those given; an unknown one ends the process."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sim_device", default="cuda:0")
    parser.add_argument("--pipeline", default="gpu")
    parser.add_argument("--graphics_device_id", type=int, default=0)
    for parameter in custom_parameters:
        parser.add_argument(parameter.pop("name"), **parameter)
    return parser.parse_args()

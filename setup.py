"""Installation of rllib_dima: `pip install -e ".[plots]" -c constraints.txt`; `make install` for development."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="rllib_dima",
    version="0.1.0",
    description="DIMA, a diffusion-inspired multi-agent world model, as an algorithm for Ray RLlib",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="reinforcement-learning,multi-agent,world-model,diffusion,ray,rllib,pytorch,mujoco,dima",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    project_urls={"Paper": "https://arxiv.org/abs/2505.20922"},
    packages=[*find_packages(include=["rllib_dima", "rllib_dima.*"]), "rllib_dima.tuned_examples"],
    package_dir={"rllib_dima.tuned_examples": "tuned_examples"},  # `rllib example` looks for it there
    package_data={"rllib_dima": ["py.typed"], "rllib_dima.tuned_examples": ["*.yaml"]},
    python_requires=">=3.10",
    install_requires=[
        "ray[rllib]>=2.60,<2.61",
        "torch>=2.6",
        "numpy>=1.26",
        "pydantic>=2",
        "click>=8.2,<9",
        "gymnasium>=1.2,<2",
        "gymnasium-robotics>=1.4,<2",
        "pettingzoo>=1.25,<2",
        "mujoco>=3.3.7,<3.6",
        "vector-quantize-pytorch>=1.20,<2",
    ],
    extras_require={
        "plots": ["matplotlib>=3.8", "scipy>=1.15", "imageio>=2.34", "imageio-ffmpeg>=0.5"],
        "teams": ["pettingzoo[butterfly,sisl]>=1.25,<2", "lbforaging>=2,<4"],  # of examples/teams.py
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=1,<2"],
        "dev": [
            "pytest>=8",
            "pytest-cov>=7",
            "pytest-xdist>=3.6",
            "coverage>=7.8",
            "ruff>=0.8",
            "pyright[nodejs]>=1.1.400",
            "mpe2>=1.1",
            "build>=1.2",
            "pre-commit>=3",
        ],
    },
    entry_points={"console_scripts": ["rllib = rllib_dima.cli:main"]},
)

"""Registers the demo's model: `python -m fedserver.demo_model DATASET SEED FOLDER`.

A process of its own, because building the network takes TensorFlow, which the demo itself never
imports. The file that it saves is then opened as any administrator's file is.
"""

import os
import sys
from pathlib import Path

import django
import numpy as np
from django.utils.text import slugify

from fedserver import demo_data
from simulation import datasets


def slug(dataset: str) -> str:
    """The slug of the model that learns this data set."""
    return slugify(dataset) or "images"


def main(name: str, seed: int, folder: Path) -> None:
    """Builds the network, holds the evaluation set out for it, and registers both.

    Args:
        name: of the data set, as `datasets.load` takes it.
        seed: of the held-out images and of the initial weights.
        folder: where the files are laid; it is there.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fedserver.settings")
    django.setup()
    from models_app import packages, registry

    dataset = datasets.load(name, seed)
    demo_data.network(dataset, seed).save(folder / "model.keras")
    np.savez(folder / "evaluation.npz", x=dataset.x_test, y=dataset.y_test)
    with packages.open_package(
        package=folder / "model.keras",
        evaluation=folder / "evaluation.npz",
        loss=str(demo_data.OBJECTIVE["loss"]),
        scale=dataset.scale,
    ) as package:
        registry.create_model(
            slug(dataset.name),
            package,
            name=f"{dataset.name} (demo)",
            description="Trained by make demo.",
            labels=dataset.labels,
            actor="owner",
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

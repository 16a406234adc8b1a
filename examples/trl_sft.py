"""Train the region modules of a model of transformers with TRL's SFTTrainer.

    pip install trl
    python -m examples.trl_sft MODEL DATA IMAGE_FOLDER OUT

MODEL is a checkpoint of transformers' own (``llava-hf/llava-1.5-7b-hf``), DATA a file of records with regions as for
``python -m pvit_ext.train``. The dataset and the collator are those of ``--host transformers``, the rest is TRL's.
OUT is what stage 1 writes: ``pvit_ext.load_pretrained_model(OUT)`` loads it with its base.
"""

from __future__ import annotations

import argparse
from typing import Any

import pvit_ext
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import load_records
from pvit_ext.hosts.transformers.dataset import RegionCollator, RegionDataset
from pvit_ext.training.arguments import DataFlags


def train(
    model_name: str, data: str, image_folder: str, out: str, config: pvit_ext.RegionConfig, **options: Any
) -> Any:
    """Align the region modules with the language model, and write them.

    Args:
        model_name: folder or hub id of a stock checkpoint.
        data: file of records.
        image_folder: of their images.
        out: folder of the result.
        config: which region encoder.
        options: of TRL's SFTConfig.

    Returns:
        TRL's trainer.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    _, model, processor, _ = pvit_ext.load_pretrained_model(model_name, region_config=config, device="cpu")
    model.requires_grad_(False)
    model.region_projector.requires_grad_(True)
    model.region_encoder.requires_grad_(not model.region_encoder.frozen)

    bad = BadRecords(0)
    records = load_records(data, image_folder, bad)
    arguments = SFTConfig(
        output_dir=out,
        remove_unused_columns=False,  # images and regions are columns that no signature names
        dataset_kwargs={"skip_prepare_dataset": True},  # the dataset writes its own chat text
        **{"max_length": None, "report_to": "none", "learning_rate": 2e-3, **options},
    )
    dataset = RegionDataset(records, bad, processor, DataFlags(), limit=2048, seed=arguments.seed)
    join = RegionCollator(processor.tokenizer.pad_token_id)
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"number": range(len(dataset))}),  # TRL takes no other kind
        data_collator=lambda rows: join([dataset[row["number"]] for row in rows]),
        processing_class=processor,
    )
    trainer.train()
    pvit_ext.save_region_modules(model, out, base=model_name)
    return trainer


def main() -> None:
    """Parse the command line, and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("model", "data", "image_folder", "out"):
        parser.add_argument(name)
    parser.add_argument("--encoder", default="osprey", help="region encoder (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.0)
    given = parser.parse_args()
    config = pvit_ext.RegionConfig(given.encoder)
    train(given.model, given.data, given.image_folder, given.out, config, num_train_epochs=given.epochs)


if __name__ == "__main__":
    main()

"""Megatron-core's own GPTDataset reads the files that we write."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.data.dataset.test_indexed import write


@pytest.mark.slow
def test_gptdataset_reads_our_files(tmp_path: Path) -> None:
    pytest.importorskip("megatron.core")
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    generator = np.random.default_rng(0)
    documents = [[(generator.integers(1, 900, length).tolist(), 1)] for length in generator.integers(3, 40, 60)]
    write(tmp_path / "p", documents)
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=16,
        split="1,0,0",
        path_to_cache=str(tmp_path / "cache"),
        tokenizer=SimpleNamespace(eod=0, pad=-1, vocab_size=1000, unique_identifiers={"name": "none"}),  # type: ignore[arg-type]
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    indexed = IndexedDataset(str(tmp_path / "p"))
    total = sum(len(document[0][0]) for document in documents)
    count = (total - 1) // 16
    dataset = GPTDataset(indexed, str(tmp_path / "p"), np.arange(60, dtype=np.int32), count, Split.train, config)
    # The samples are windows of the documents in the order that it drew, in an order that it drew again.
    running = np.concatenate([documents[number][0][0] for number in dataset.document_index])
    for place in range(count):
        sample, start = dataset[place], 16 * int(dataset.shuffle_index[place])
        assert sample["tokens"].tolist() == running[start : start + 16].tolist()
        assert sample["labels"].tolist() == running[start + 1 : start + 17].tolist()

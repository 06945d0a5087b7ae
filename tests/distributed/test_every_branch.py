"""Stand-ins for images that a batch lacks: they change no number, and every branch is reached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from two_ranks import on_two_ranks

from spinevl.config.options import AugmentOptions, OptimOptions
from spinevl.data.datamodule import ExampleDataModule
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.models.auxiliary_heads import AuxiliaryHeads
from spinevl.models.connector.mlp import MLPConnector
from spinevl.models.encoder import base
from spinevl.models.encoder.base import Encoder
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import TinyLLM
from spinevl.models.vlm import VLM
from spinevl.schema.batch import Batch
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef, Modality
from spinevl.training import every_branch
from spinevl.training.dev_score import mean_logprob, of_all_ranks
from spinevl.training.every_branch import EveryBranch, require_reached
from spinevl.training.module import TrainingModule
from spinevl.training.stage import Stage


class Volumes(Encoder):
    """A volume [1, 2, 4, 4] as two tokens, a slice each."""

    modality: Modality = "image3d"

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.grid, self.tokens = 8, (2, 1, 1), 2
        self.project = nn.Linear(16, 8)

    def transform(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image)[None]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.project(pixel_values[:, 0].flatten(2))


def model() -> VLM:
    torch.manual_seed(0)
    encoder = TinyEncoder(image_size=64, widths=(8, 8, 8), tokens_per_side=2, dim=8)
    llm = TinyLLM(width=16, layers=1, heads=2)
    return VLM(
        encoder,
        MLPConnector(in_dim=8, out_dim=16, in_tokens=4, in_grid=(2, 2)),
        llm,
        encoder3d=Volumes(),
        connector3d=MLPConnector(in_dim=8, out_dim=16, in_tokens=2, in_grid=(2, 1, 1)),
    )


def noise(image: ImageRef) -> np.ndarray:
    rng = np.random.default_rng(len(image.path))
    if image.modality == "image3d":
        return rng.random((2, 4, 4), dtype=np.float32)
    return rng.integers(0, 255, (64, 64), dtype=np.uint8)


def example(name: str, *shown: Modality) -> Example:
    images = tuple(ImageRef(name + "x" * k, modality=one) for k, one in enumerate(shown))
    signs = "".join(f"<{one}>" for one in shown)
    return Example(Key(name, ""), images, ((f"{signs}Curve?", f"{name} is."),))


def collator(vlm: VLM) -> Collator:
    return Collator(vlm.inputs(), ImageStore(noise), learn=True)


def stand_ins(collate: Collator) -> dict[Modality, Any]:
    return {kind: one([ImageRef("s", modality=kind)]) for kind, one in collate.inputs.items()}


SHOWN: list[tuple[Modality, ...]] = [
    (),
    ("image",),
    ("image3d",),
    ("image3d", "image", "image3d"),
]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("shown", SHOWN, ids=str)
def test_stand_ins_change_no_number_and_reach_everything(
    monkeypatch: pytest.MonkeyPatch, shown: tuple[Modality, ...], frozen: bool, cached: bool
) -> None:
    vlm = model()
    for part in (vlm.encoder, vlm.encoder3d):
        part.requires_grad_(not frozen and not cached)
    collate = collator(vlm)
    if cached:
        for kind, one in collate.inputs.items():
            encoder = vlm.vision_branches()[kind].encoder

            def encode(images: Any, one: Any = one, encoder: Any = encoder) -> torch.Tensor:
                pixels = torch.stack([one.vision.transform(one.pixels(image)) for image in images])
                return encoder(pixels).detach()

            one.features = encode
    complete = EveryBranch(vlm, stand_ins(collate))
    batch = collate([[(0, example("a", *shown))], [(1, example("bb", *shown))]])
    assert complete(batch) is batch  # one process, where the LLM learns
    logprobs = vlm(batch)
    logprobs.sum().backward()
    alone = {name: p.grad for name, p in vlm.named_parameters()}
    vlm.zero_grad(set_to_none=True)
    # several processes, one of which calls each frozen encoder five times
    monkeypatch.setattr(every_branch, "world_size", lambda: 2)
    monkeypatch.setattr(every_branch, "largest_over_ranks", lambda calls, device: [5] * len(calls))
    monkeypatch.setattr(every_branch, "FIXED_BATCH", {"image": 2, "image3d": 1})
    monkeypatch.setattr(base, "FIXED_BATCH", {"image": 2, "image3d": 1})
    calls = {"image": 0, "image3d": 0}
    for kind, branch in vlm.vision_branches().items():

        def count(*_: Any, kind: str = kind) -> None:
            calls[kind] += 1

        branch.encoder.register_forward_hook(count)
    together = vlm(complete(batch))
    assert set(calls.values()) == {0 if cached else 5 if frozen else 1}
    torch.testing.assert_close(together, logprobs, atol=1e-6, rtol=0)
    together.sum().backward()
    for name, p in vlm.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            expected = alone[name] if alone[name] is not None else torch.zeros_like(p)
            torch.testing.assert_close(p.grad, expected, atol=1e-5, rtol=1e-5)


def test_one_process_gets_a_stand_in_only_where_nothing_would_learn() -> None:
    vlm = model()
    vlm.llm.requires_grad_(False)
    vlm.encoder3d.requires_grad_(False)
    vlm.connector3d.requires_grad_(False)
    collate = collator(vlm)
    complete = EveryBranch(vlm, stand_ins(collate))
    image = collate([[(0, example("a", "image"))]])
    assert complete(image) is image
    for shown in ((), ("image3d",)):
        batch = collate([[(0, example("a", *shown))]])  # type: ignore[arg-type]
        logprobs = vlm(complete(batch))
        logprobs.sum().backward()
        torch.testing.assert_close(logprobs, vlm(batch))
        assert all(not p.grad.any() for p in vlm.connector.parameters() if p.grad is not None)
        assert all(p.grad is not None for p in vlm.encoder.parameters())


def test_what_learns_and_is_not_reached_is_named() -> None:
    vlm = model()
    vlm.encoder3d.requires_grad_(False)
    vlm.connector3d.requires_grad_(False)
    vlm(collator(vlm)([[(0, example("a", "image"))]])).sum().backward()
    require_reached(vlm)
    vlm.encoder.head = nn.Linear(8, 2)
    with pytest.raises(UserError, match=r"encoder\.head\.weight.*unreached\(\)"):
        require_reached(vlm)


# what the examples of each rank show, step by step; a rank without examples has a blank batch
STEPS: list[tuple[list[tuple[Modality, ...]], list[tuple[Modality, ...]]]] = [
    ([("image",)], [()]),
    ([()], [("image3d",), ("image3d", "image3d")]),
    ([("image", "image", "image"), ()], [("image3d", "image")]),
    ([("image3d",)], []),
    ([("image3d", "image", "image3d")], [("image",)]),
]
FREE = ("encoder", "connector", "encoder3d", "connector3d", "llm")
# name -> the parts that learn, and whether answers are learned
CASES: dict[str, tuple[tuple[str, ...], bool]] = {
    "everything": (FREE, True),
    "frozen encoders": (("connector", "connector3d", "llm"), True),
    "connectors alone": (("connector", "connector3d"), True),
    "the warm-up": (("encoder", "connector"), False),
}


class Step(nn.Module):
    """What data-parallel training wraps: a training step."""

    def __init__(self, case: str) -> None:
        super().__init__()
        vlm = model()
        free, answers = CASES[case]
        for name in set(FREE) - set(free):
            getattr(vlm, name).requires_grad_(False)
        heads = None if answers else AuxiliaryHeads({"curve": 2}, tokens=4, dim=16)
        self.collate = collator(vlm)
        self.training_module = TrainingModule(
            vlm,
            heads,
            auxiliary_weight=1.0,
            augment=AugmentOptions(),
            optim=OptimOptions(),
            seed=0,
            stand_ins=stand_ins(self.collate),
        )
        self.training_module.begin(Stage(answers, 0, 1, len(STEPS), 1))

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.training_module.training_step(batch, 0)

    def batch(self, number: int, ranks: tuple[int, ...]) -> Batch:
        """The batch of some ranks; an auxiliary target for each 2D image in it."""
        examples = [
            example(f"{number}{rank}" + "y" * place, *shown)
            for rank in ranks
            for place, shown in enumerate(STEPS[number][rank])
        ]
        images = [image for one in examples for image in one.images]
        collate = self.collate.numbering(images)
        if not examples:
            return collate([[(0, example("none", "image"))]]).blank()
        batch = collate([[pair] for pair in enumerate(examples)])
        count = len(batch.pixel_values)
        # so that images are augmented alike, whoever reads them
        numbers = tuple(len(one.path) for one in images if one.modality == "image")
        return replace(
            batch,
            image_numbers=numbers,
            number=number,
            auxiliary_image=torch.arange(count),
            auxiliary_head=torch.zeros(count, dtype=torch.long),
            auxiliary_label=torch.tensor([one % 2 for one in numbers], dtype=torch.long),
            auxiliary_weight=torch.ones(count),
            auxiliary_divisor=float(count),
        )


def learned(step: Step) -> list[nn.Parameter]:
    return [p for p in step.parameters() if p.requires_grad]


def alone(case: str) -> list[torch.Tensor]:
    """The weights after the steps of one process, which has every rank's examples."""
    step = Step(case)
    optimizer = torch.optim.SGD(learned(step), lr=0.1)
    for number in range(len(STEPS)):
        optimizer.zero_grad()
        batch = step.batch(number, (0, 1))
        if step.training_module.heads is None or len(batch.pixel_values):
            step(batch).backward()
            optimizer.step()
    return [p.detach() for p in learned(step)]


def with_ddp(case: str, rank: int) -> list[torch.Tensor]:
    step = Step(case)
    wrapped = DistributedDataParallel(step)
    optimizer = torch.optim.SGD(learned(step), lr=0.1)
    for number in range(len(STEPS)):
        optimizer.zero_grad()
        wrapped(step.batch(number, (rank,))).backward()
        optimizer.step()
    return [p.detach() for p in learned(step)]


def with_zero3(case: str, rank: int) -> list[torch.Tensor]:
    import deepspeed
    import deepspeed.ops

    # compiled otherwise, for a minute and a half
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    step = Step(case)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,  # 1.0 by default
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    optimizer = torch.optim.SGD(learned(step), lr=0.1)
    engine, *_ = deepspeed.initialize(
        model=step, optimizer=optimizer, config=config, dist_init_required=False
    )
    for number in range(len(STEPS)):
        engine.backward(engine(step.batch(number, (rank,))))
        engine.step()
    weights = learned(step)
    with deepspeed.zero.GatheredParameters(weights):
        return [p.detach().clone() for p in weights]


def dev_score(rank: int, world: int) -> float:
    """The score of five conversations, one a batch."""
    step = Step("everything")
    shown: list[tuple[Modality, ...]] = [(), ("image",), ("image3d",), ("image",), ()]
    dev = [example("d" * (k + 1), *kinds) for k, kinds in enumerate(shown)]
    options: dict[str, Any] = {"ratios": {}, "batch_size": 1, "seed": 0}
    collate = step.collate
    data = ExampleDataModule(dev, dev, collate=collate, rank=rank, world=world, **options)
    batches = list(data.val_dataloader())
    with torch.no_grad():
        found = [step.training_module.validation_step(batch, 0) for batch in batches]
    return mean_logprob(*(of_all_ranks(batches, found) if world > 1 else (batches, found)))


def _rank(rank: int, results: str) -> None:
    # one image of three is a chunk of its own, so that ranks call frozen encoders unequally often
    base.FIXED_BATCH = every_branch.FIXED_BATCH = {"image": 2, "image3d": 1}
    found = {
        "dev": (dev_score(rank, 2), dev_score(0, 1)),
        "ddp": {case: with_ddp(case, rank) for case in CASES},
        "zero3": {case: with_zero3(case, rank) for case in CASES},
    }
    torch.save(found, f"{results}-{rank}")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    on_two_ranks(_rank, folder, str(folder / "found"))
    return [torch.load(folder / f"found-{rank}") for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["ddp", "zero3"])
def test_ranks_that_show_other_images_train_as_one_process(
    ranks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for module in (base, every_branch):
        monkeypatch.setattr(module, "FIXED_BATCH", {"image": 2, "image3d": 1})
    for case in CASES:
        expected = alone(case)
        start = [p.detach() for p in learned(Step(case))]
        moved = max(float((a - b).abs().max()) for a, b in zip(expected, start, strict=True))
        assert moved > 1e-3, case  # or nothing would be compared
        for found in ranks:
            for one, other in zip(found[kind][case], expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=case)


@pytest.mark.distributed
def test_every_rank_has_the_dev_score_of_one_process(ranks: list[dict[str, Any]]) -> None:
    (first, expected), (second, other) = (found["dev"] for found in ranks)
    assert first == second == expected == other

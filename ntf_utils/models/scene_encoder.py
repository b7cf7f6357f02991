"""A scene in one vector, and a question answered from it: the networks of Parelli et al. (2023).

    proposals  crop and box of each object -> [b, p, width]   (in the paper: VoteNet's, see `ntf_utils.models.detector`)
    scene      [scene token; proposals] -> one Transformer layer -> z_scene = Linear(LayerNorm(scene token))
    fusion     [answer token; words; scene token; proposals] -> two layers -> answer, object class, place

Two networks share the scene part: `SceneEncoder`, pre-trained so that z_scene points to where CLIP puts the scene's
caption and picture, and `SceneQA`, trained on questions.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.refusal import Refusal


@dataclass(frozen=True)
class SceneShape:
    """Sizes of the networks; the defaults are our laptop's, `PAPER` the published code's.

    Attributes:
        classes: of objects. answers: that a question can have.
        embedding: of z_scene, the size of the teacher's vectors.
        width, heads, feedforward: of the Transformer layers, scene and fusion alike.
        fusion_layers: after the scene's one.
        crop: hidden and output width of the small PointNet that reads a crop.
        vocabulary: words with embeddings of their own; 0 where words come as features of `text_width`.
        longest: most words of a question.
        norm_first: layer norms before attention and MLP, not after: small networks learn sooner so. The published code
            has them after, as torch does by default.
        pointer: the answer is read from the answer token and from the proposal that is pointed at; else, as in the
            published code, from the token alone. In trial runs the token had not learned to look at the right proposal
            when training ended, and no network could tell a colour or a size.
        dropout: in the layers; answer_dropout: before the last layer of the answer head.
        across_batch: let the scene layer attend from scene to scene instead of from object to object. The published
            code does: its layer lacks `batch_first=True` and is given [batch, tokens, width].
    """

    classes: int = 8
    answers: int = 25
    embedding: int = 128
    width: int = 64
    heads: int = 4
    feedforward: int = 128
    fusion_layers: int = 2
    crop: tuple[int, int] = (32, 64)
    vocabulary: int = 0
    text_width: int = 128
    longest: int = 24
    norm_first: bool = True
    pointer: bool = True
    dropout: float = 0.1
    answer_dropout: float = 0.3
    across_batch: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise Refusal(f"heads must divide width (got width {self.width}, heads {self.heads})")

    def but(self, **changes: object) -> Self:
        """A copy with some sizes changed."""
        return replace(self, **changes)


# AlexDelitzas/3D-VQA at 774f5a9: models/pretrain_module.py, qa_module.py, cross_encoder.py. The crop PointNet has no
# counterpart there; the number of answers is the training set's (8864 is from memory).
PAPER = SceneShape(
    classes=18, answers=8864, embedding=512, width=256, heads=8, feedforward=2048, crop=(128, 256), text_width=512,
    longest=77, norm_first=False, pointer=False,
)  # fmt: skip


class Encoded(NamedTuple):
    """A batch of scenes.

    Attributes:
        scene: [b, embedding] z_scene, not normalised.
        tokens: [b, 1 + p, width] the scene token and the proposals after the scene layer.
        present: [b, p] which proposals are real; the others are padding.
        objects: [b, p, classes + 1] logits of each proposal's class, the last one "no object"; read before the scene
            layer, as VoteNet's are.
        offsets: [b, p, 6] metres to be added to the proposal's box, centre and extent.
    """

    scene: Tensor
    tokens: Tensor
    present: Tensor
    objects: Tensor
    offsets: Tensor

    def at(self, scenes: Tensor) -> Self:
        """The encodings of these scenes, [q] indices: several questions about a scene, which is encoded once."""
        return type(self)(*(part[scenes] for part in self))


class Answered(NamedTuple):
    """A batch of questions.

    Attributes:
        answers: [b, answers] logits, one independent yes or no an answer (the paper trains them by BCE).
        objects: [b, classes] logits of the class of the object asked for.
        places: [b, p] logits of which proposal is asked for; minus infinity where there is none.
        encoded: the scenes, as the encoder saw them.
    """

    answers: Tensor
    objects: Tensor
    places: Tensor
    encoded: Encoded


class ProposalEncoder(nn.Module):
    """Reads each object by itself: its points through a small PointNet (Qi et al., 2017), its box through an MLP.

    Colours and classes are to be found by the network; a proposal carries no labels.
    """

    def __init__(self, shape: SceneShape):
        super().__init__()
        hidden, out = shape.crop
        self.points = nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, out), nn.ReLU())
        # the norms give look and box equal say: without them colours are a hundredth of what the layers after see
        self.merge = nn.Sequential(nn.Linear(2 * out, out), nn.ReLU(), nn.LayerNorm(out))
        self.box = nn.Sequential(
            nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, out), nn.ReLU(), nn.LayerNorm(out)
        )
        self.outputs = 2 * out

    def forward(self, crops: Tensor, boxes: Tensor) -> Tensor:
        """[b, p, m, 6] points (metres, colours in [0, 1]) and [b, p, 6] boxes (centre, extent) -> [b, p, outputs].

        Points are taken from the box's centre, so that an object looks the same wherever it stands.
        """
        local = torch.cat([2 * (crops[..., :3] - boxes[..., None, :3]), 4 * (crops[..., 3:] - 0.5)], dim=-1)
        h = self.points(local)  # [b, p, m, out]
        # the largest value finds a shape's corners, the mean its colour, which noise on single points blurs
        look = self.merge(torch.cat([h.amax(dim=2), h.mean(dim=2)], dim=-1))
        return torch.cat([look, self.box(boxes)], dim=-1)


class SceneLayer(nn.Module):
    """From proposals to z_scene: a learnt scene token attends to all proposals in one Transformer layer.

    Args:
        inputs: width of a proposal.
    """

    def __init__(self, inputs: int, shape: SceneShape):
        super().__init__()
        self.across_batch = shape.across_batch
        self.project = nn.Sequential(nn.Linear(inputs, shape.width), nn.GELU())
        self.token = nn.Parameter(torch.randn(1, 1, shape.width))
        self.layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, shape.feedforward, shape.dropout,
            batch_first=not shape.across_batch, norm_first=shape.norm_first,
        )  # fmt: skip
        self.norm = nn.LayerNorm(shape.width) if shape.norm_first else nn.Identity()
        to_scene = nn.Linear(shape.width, shape.embedding)
        self.head = nn.Sequential(nn.LayerNorm(shape.width), to_scene)

    def forward(self, proposals: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals [b, p, inputs], and which are real [b, p]
        -> z_scene [b, embedding], tokens [b, 1 + p, width]."""
        token = self.token.expand(len(proposals), 1, -1)
        tokens = torch.cat([token, self.project(proposals)], dim=1)
        absent = ~F.pad(present, (1, 0), value=True)  # [b, 1 + p]; the scene token always is
        if self.across_batch:  # the layer now reads [length, batch, width]: length is scenes
            absent = absent.T & ~absent.all(dim=0)[:, None]  # attending to nobody gives NaN
        tokens = self.layer(tokens, src_key_padding_mask=absent)
        return self.head(tokens[:, 0]), self.norm(tokens)


class SceneEncoder(nn.Module):
    """Proposals -> z_scene, with the heads of the detection losses; what pre-training trains."""

    def __init__(self, shape: SceneShape):
        super().__init__()
        self.shape = shape
        self.proposals = ProposalEncoder(shape)
        self.scene = SceneLayer(self.proposals.outputs, shape)
        self.objects = nn.Linear(self.proposals.outputs, shape.classes + 1)
        self.offsets = nn.Linear(self.proposals.outputs, 6)

    def forward(self, crops: Tensor, boxes: Tensor, present: Tensor) -> Encoded:
        """Encodes scenes.

        Args:
            crops: [b, p, m, 6] points of each proposal: room coordinates in metres, colours in [0, 1].
            boxes: [b, p, 6] centre and extent in metres.
            present: [b, p] which proposals are real; at least one a scene.
        """
        found = self.proposals(crops, boxes)
        scene, tokens = self.scene(found, present)
        return Encoded(scene, tokens, present, self.objects(found), self.offsets(found))


class Fusion(nn.Module):
    """Joins a question and a scene by self-attention over both, and reads the answer off.

    The published code reads it at the first word. CLIP's text model is causal, so that word has seen no other and
    enters as a constant: here a learnt answer token stands in its place.
    """

    def __init__(self, shape: SceneShape):
        super().__init__()
        self.longest = shape.longest
        if shape.vocabulary:
            self.words = nn.Embedding(shape.vocabulary, shape.width, padding_idx=0)
            self.positions = nn.Parameter(0.02 * torch.randn(shape.longest, shape.width))
        else:
            self.words = nn.Sequential(nn.Linear(shape.text_width, shape.width), nn.GELU())
            self.positions = None  # a text encoder's features already know their places
        self.scene = nn.Sequential(nn.Linear(shape.width, shape.width), nn.GELU())
        self.token = nn.Parameter(torch.randn(1, 1, shape.width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                shape.width, shape.heads, shape.feedforward, shape.dropout, "gelu",
                batch_first=True, norm_first=shape.norm_first,
            )
            for _ in range(shape.fusion_layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(shape.width) if shape.norm_first else nn.Identity()
        self.pointer = shape.pointer
        self.answers = _head(shape.width, shape.answers, shape.answer_dropout, 2 if shape.pointer else 1)
        self.objects = _head(shape.width, shape.classes, 0.1)
        self.places = _head(shape.width, 1, 0.1)

    def forward(self, encoded: Encoded, words: Tensor, mask: Tensor | None = None) -> Answered:
        """Answers one question a scene.

        Args:
            encoded: [b, ...] the scenes.
            words: [b, w] tokens, 0 for padding, or [b, w, text_width] features of a text encoder.
            mask: [b, w] which words are real; by default the tokens that are not 0.

        Raises:
            Refusal: more words than `longest`.
        """
        if words.shape[1] > self.longest:
            raise Refusal(f"a question of {words.shape[1]} words, and the network reads {self.longest}")
        if mask is None:
            mask = words != 0 if words.dim() == 2 else words.new_ones(words.shape[:2], dtype=torch.bool)
        said = self.words(words)
        if self.positions is not None:
            said = said + self.positions[: words.shape[1]]
        token = self.token.expand(len(words), 1, -1)
        x = torch.cat([token, said, self.scene(encoded.tokens)], dim=1)  # [b, 1 + w + 1 + p, width]
        there = [torch.ones_like(mask[:, :1]), mask, torch.ones_like(mask[:, :1]), encoded.present]
        absent = ~torch.cat(there, dim=1)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=absent)
        x = self.norm(x)
        token, proposals = x[:, 0], x[:, words.shape[1] + 2 :]
        places = self.places(proposals).squeeze(-1).masked_fill(~encoded.present, -torch.inf)
        read = token
        if self.pointer:
            empty = ~encoded.present.any(dim=1, keepdim=True)  # nowhere to point to would give NaN
            weights = places.masked_fill(empty, 0).softmax(dim=1)
            pointed = (weights[..., None] * proposals).sum(dim=1)
            read = torch.cat([token, pointed], dim=1)  # [b, 2 width]
        return Answered(self.answers(read), self.objects(token), places, encoded)


class SceneQA(nn.Module):
    """Scene encoder and fusion: a room and a question -> an answer. `encoder` takes pre-trained weights."""

    def __init__(self, shape: SceneShape):
        super().__init__()
        self.shape = shape
        self.encoder = SceneEncoder(shape)
        self.fusion = Fusion(shape)

    def forward(
        self,
        crops: Tensor,
        boxes: Tensor,
        present: Tensor,
        words: Tensor,
        mask: Tensor | None = None,
        scenes: Tensor | None = None,
    ) -> Answered:
        """Arguments as of `SceneEncoder` and `Fusion`; `scenes` [q] says which scene each of q questions is about, by
        default the first about the first, and so on."""
        encoded = self.encoder(crops, boxes, present)
        return self.fusion(encoded if scenes is None else encoded.at(scenes), words, mask)


def _head(width: int, outputs: int, dropout: float, inputs: int = 1) -> nn.Sequential:
    """An MLP of one hidden layer, from `inputs` vectors of the width."""
    return nn.Sequential(nn.Linear(inputs * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs))


def alignment_loss(scene: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cos(z_scene, target): plain cosine, no negatives, as the paper has it; from 0 to 2.

    Args:
        scene: [b, embedding]. targets: [b, embedding] of captions or pictures, from a frozen teacher.
    """
    return (1 - F.cosine_similarity(scene, targets, dim=1)).mean()


def detection_loss(encoded: Encoded, classes: Tensor, offsets: Tensor) -> Tensor:
    """The detection losses that are left where proposals are given: class (weight 0.1) and box (weight 1).

    Objectness, a loss of its own in VoteNet, is here the class "no object".

    Args:
        encoded: [b, p] proposals.
        classes: [b, p] the true class of each; the number of classes where it is no object.
        offsets: [b, p, 6] the object's true box minus the proposal's, in metres; anything where it is no object.

    Returns:
        0.1 cross-entropy, a mean over real proposals, + smooth-L1 of the box, a mean over those that are objects.
    """
    named = F.cross_entropy(encoded.objects[encoded.present], classes[encoded.present])
    objects = encoded.present & (classes < encoded.objects.shape[-1] - 1)
    boxed = F.smooth_l1_loss(encoded.offsets[objects], offsets[objects], reduction="sum")
    return 0.1 * named + boxed / (6 * objects.sum()).clamp_min(1)


def place_loss(places: Tensor, wanted: Tensor) -> Tensor:
    """Softmax cross-entropy over proposals, mean over questions that have a place.

    Args:
        places: [b, p] logits. wanted: [b] the proposal that overlaps the object most; -1 for a question without one.
    """
    asked = wanted >= 0
    return F.cross_entropy(places[asked], wanted[asked]) if asked.any() else places[:, :0].sum()

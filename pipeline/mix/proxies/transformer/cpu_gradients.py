"""Loss and gradient of the model on CPU, written out by hand: big matrix products into buffers that are made once.

The mathematics is `model.loss`. What makes it fast on one core: a pass takes about a thousand tokens, so that
activations stay in the cache and nothing is allocated; matrices are multiplied in bfloat16 where the CPU has
instructions for it (twice the rate), while the parameters, the residual stream, the norms and the sums of gradients
stay float32; the loss and its gradient leave the head in one go, softmax being the only thing computed on the logits.
"""

from __future__ import annotations

import math

import torch

from pipeline.mix.proxies.transformer import model
from pipeline.mix.proxies.transformer.shape import Shape

HEAD_TOKENS = 512
HEAD_LOGITS = 1 << 22
"""Logits are held for so many tokens at once, fewer where the vocabulary is large."""
QUERY_TOKENS = 128
"""Queries that look at keys together: those keys that none of them may see are left out of the product."""


def _blocks(context: int) -> list[tuple[int, int]]:
    return [(first, min(first + QUERY_TOKENS, context)) for first in range(0, context, QUERY_TOKENS)]


class _Layer:
    """What the backward pass needs of a layer's forward pass."""

    def __init__(self, shape: Shape, rows: int, dtype: torch.dtype) -> None:
        n, context = rows * shape.context, shape.context
        heads = rows * shape.heads
        self.inverse_1, self.inverse_2 = torch.empty(n, 1), torch.empty(n, 1)
        self.normal_1 = torch.empty(n, shape.width, dtype=dtype)
        self.normal_2 = torch.empty(n, shape.width, dtype=dtype)
        self.qkv = torch.empty(3, heads, context, shape.head_width, dtype=dtype)
        self.shares = [torch.empty(heads, last - first, last, dtype=dtype) for first, last in _blocks(context)]
        self.attended = torch.empty(n, shape.width, dtype=dtype)
        self.gate = torch.empty(n, shape.hidden, dtype=dtype)
        self.up = torch.empty(n, shape.hidden, dtype=dtype)
        self.activated = torch.empty(n, shape.hidden, dtype=dtype)
        self.product = torch.empty(n, shape.hidden, dtype=dtype)


class CpuGradients:
    """Adds the gradient of `model.loss` to `gradient`, pass by pass. All tensors are on the CPU."""

    def __init__(self, shape: Shape, rows: int, flat: torch.Tensor, dtype: torch.dtype) -> None:
        """`rows`: sequences of one pass. `flat`: the float32 parameters, read anew at each `refresh`."""
        self.shape, self.rows, self.flat = shape, rows, flat
        self.gradient = torch.zeros_like(flat)
        self._low = torch.empty_like(flat, dtype=dtype)
        self._weights = model.split(self._low, shape)
        self._embedding = model.split(flat, shape)["embedding"]
        self._gradients = model.split(self.gradient, shape)
        n = rows * shape.context
        self._products = {name: torch.empty(w.shape, dtype=dtype) for name, w in self._weights.items()}
        self._layers = [_Layer(shape, rows, dtype) for _ in range(shape.depth)]
        self._x, self._wide = torch.empty(n, shape.width), torch.empty(n, shape.width)
        self._narrow = torch.empty(n, shape.width, dtype=dtype)
        self._low_x = torch.empty(n, shape.width, dtype=dtype)
        self._mixed = torch.empty(n, 3 * shape.width, dtype=dtype)
        self._heads = torch.empty(3, rows * shape.heads, shape.context, shape.head_width, dtype=dtype)
        self._turned = torch.empty(2, rows * shape.heads, shape.context, shape.head_width)
        self._scores = [torch.empty_like(shares) for shares in self._layers[0].shares]
        self._hidden = torch.empty(n, shape.hidden, dtype=dtype)
        self._d_gate, self._d_up = torch.empty_like(self._hidden), torch.empty_like(self._hidden)
        head_tokens = min(n, HEAD_TOKENS, max(16, HEAD_LOGITS // shape.vocabulary))
        self._logits = torch.empty(head_tokens, shape.vocabulary, dtype=dtype)
        self._row_starts = torch.arange(len(self._logits)) * shape.vocabulary
        self._last, self._last_inverse = torch.empty(n, shape.width, dtype=dtype), torch.empty(n, 1)
        self._mask = torch.full((QUERY_TOKENS, QUERY_TOKENS), -1e9).triu(1).to(dtype)
        cosine, sine = model.rotary_tables(shape, shape.context)
        scale = torch.tensor([1.0 / math.sqrt(shape.head_width), 1.0]).view(
            2, 1, 1, 1
        )  # queries carry the scores' scale
        self._cosine, self._sine = scale * cosine, scale * sine

    def refresh(self) -> None:
        """Take the parameters as they are now, and start the gradient from zero."""
        self._low.copy_(self.flat)
        self.gradient.zero_()

    def add(self, rows: torch.Tensor) -> float:
        """Add the gradient of these sequences (rows, context + 1); return their summed loss in nats."""
        inputs, targets = rows[:, :-1].reshape(-1), rows[:, 1:].reshape(-1)
        torch.index_select(self._embedding, 0, inputs, out=self._x)
        for number, layer in enumerate(self._layers):
            self._attend(f"layer{number}.", layer)
            self._feed(f"layer{number}.", layer)
        self._normalise(self._last, self._last_inverse)
        total = self._head(targets)
        self._normalise_back(self._narrow, self._last, self._last_inverse, self._x.zero_())
        for number in range(self.shape.depth - 1, -1, -1):
            self._feed_back(f"layer{number}.", self._layers[number])
            self._attend_back(f"layer{number}.", self._layers[number])
        self._gradients["embedding"].index_add_(0, inputs, self._x)
        return total

    def _normalise(self, out: torch.Tensor, inverse: torch.Tensor) -> None:
        torch.linalg.vector_norm(self._x, dim=1, keepdim=True, out=inverse)
        inverse.square_().div_(self.shape.width).add_(model.EPSILON).rsqrt_()
        torch.mul(self._x, inverse, out=self._wide)
        out.copy_(self._wide)

    def _normalise_back(self, d: torch.Tensor, normal: torch.Tensor, inverse: torch.Tensor, out: torch.Tensor) -> None:
        """Add to `out` the gradient of the norm's input, of which `d` is that of its output."""
        torch.mul(d, normal, out=self._low_x)
        projected = self._low_x.sum(1, keepdim=True, dtype=torch.float32).div_(self.shape.width)
        self._wide.copy_(d)
        self._wide.addcmul_(normal, projected, value=-1.0)
        out.addcmul_(self._wide, inverse)

    def _add_product(self, name: str, left: torch.Tensor, right: torch.Tensor, half: int | None = None) -> None:
        """Add left^T right to a matrix's gradient, or to the first or second half of its rows."""
        gradient, product = self._gradients[name], self._products[name]
        if half is not None:
            gradient, product = gradient.chunk(2)[half], product.chunk(2)[half]
        if left.dtype == torch.float32:
            gradient.addmm_(left.t(), right)
        else:
            gradient.add_(torch.mm(left.t(), right, out=product))

    def _by_head(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        """View (n, parts * width) as (parts, rows, heads, context, head_width)."""
        shape = self.shape
        return x.view(self.rows, shape.context, parts, shape.heads, shape.head_width).permute(2, 0, 3, 1, 4)

    def _rotate(self, x: torch.Tensor, out: torch.Tensor, sign: float) -> None:
        """Turn queries and keys (2, heads, context, head_width) by their angles, or back."""
        half = self.shape.head_width // 2
        self._turned.copy_(x)
        first, second = self._turned[..., :half], self._turned[..., half:]
        a = (first * self._cosine).addcmul_(second, self._sine, value=-sign)
        second.mul_(self._cosine).addcmul_(first, self._sine, value=sign)
        first.copy_(a)
        out.copy_(self._turned)

    def _attend(self, name: str, layer: _Layer) -> None:
        heads = (3, self.rows, self.shape.heads, self.shape.context, self.shape.head_width)
        self._normalise(layer.normal_1, layer.inverse_1)
        torch.mm(layer.normal_1, self._weights[name + "qkv"].t(), out=self._mixed)
        layer.qkv.view(heads).copy_(self._by_head(self._mixed, 3))
        self._rotate(layer.qkv[:2], layer.qkv[:2], 1.0)
        q, k, v = layer.qkv
        for shares, (first, last) in zip(layer.shares, _blocks(self.shape.context), strict=True):
            torch.bmm(q[:, first:last], k[:, :last].transpose(1, 2), out=shares)
            shares[:, :, first:].add_(self._mask[: last - first, : last - first])
            torch.softmax(shares, -1, out=shares)
            torch.bmm(shares, v[:, :last], out=self._heads[0, :, first:last])
        self._by_head(layer.attended, 1).copy_(self._heads[0].view(heads[1:]))
        self._x.add_(torch.mm(layer.attended, self._weights[name + "out"].t(), out=self._narrow))

    def _feed(self, name: str, layer: _Layer) -> None:
        gate, up = self._weights[name + "up"].chunk(2)
        self._normalise(layer.normal_2, layer.inverse_2)
        torch.mm(layer.normal_2, gate.t(), out=layer.gate)
        torch.mm(layer.normal_2, up.t(), out=layer.up)
        torch.ops.aten.silu.out(layer.gate, out=layer.activated)
        torch.mul(layer.activated, layer.up, out=layer.product)
        self._x.add_(torch.mm(layer.product, self._weights[name + "down"].t(), out=self._narrow))

    def _head(self, targets: torch.Tensor) -> float:
        """Leave the gradient of the last hidden states in `_narrow`; return the summed loss."""
        total = torch.zeros((), dtype=torch.float64)
        head, size = self._weights["head"], len(self._logits)
        for start in range(0, len(targets), size):
            states, wanted = self._last[start : start + size], targets[start : start + size]
            shares = self._logits[: len(wanted)]
            torch.mm(states, head.t(), out=shares)
            torch.softmax(shares, 1, out=shares)
            flat, places = shares.view(-1), wanted + self._row_starts[: len(wanted)]
            share = flat[places]
            total += share.double().clamp_(min=1e-37).log_().sum()
            flat[places] = share - 1
            torch.mm(shares, head, out=self._narrow[start : start + size])
            self._add_product("head", shares, states)
        return -float(total)

    def _feed_back(self, name: str, layer: _Layer) -> None:
        gate, up = self._weights[name + "up"].chunk(2)
        self._low_x.copy_(self._x)
        self._add_product(name + "down", self._low_x, layer.product)
        torch.mm(self._low_x, self._weights[name + "down"], out=self._hidden)
        torch.mul(self._hidden, layer.activated, out=self._d_up)
        self._hidden.mul_(layer.up)
        torch.ops.aten.silu_backward.grad_input(self._hidden, layer.gate, grad_input=self._d_gate)
        self._add_product(name + "up", self._d_gate, layer.normal_2, half=0)
        self._add_product(name + "up", self._d_up, layer.normal_2, half=1)
        torch.mm(self._d_gate, gate, out=self._narrow)
        torch.addmm(self._narrow, self._d_up, up, out=self._narrow)
        self._normalise_back(self._narrow, layer.normal_2, layer.inverse_2, self._x)

    def _attend_back(self, name: str, layer: _Layer) -> None:
        heads = (3, self.rows, self.shape.heads, self.shape.context, self.shape.head_width)
        self._low_x.copy_(self._x)
        self._add_product(name + "out", self._low_x, layer.attended)
        torch.mm(self._low_x, self._weights[name + "out"], out=self._narrow)
        d_q, d_k, d_v = self._heads
        d_q.view(heads[1:]).copy_(self._by_head(self._narrow, 1)[0])  # the outputs' gradient, until d_q is known
        q, k, v = layer.qkv
        d_k.zero_()
        d_v.zero_()
        for shares, scores, (first, last) in zip(layer.shares, self._scores, _blocks(self.shape.context), strict=True):
            d_out = d_q[:, first:last]
            d_v[:, :last].baddbmm_(shares.transpose(1, 2), d_out)
            torch.bmm(d_out, v[:, :last].transpose(1, 2), out=scores)
            torch._softmax_backward_data(scores, shares, -1, scores.dtype, grad_input=scores)
            torch.bmm(scores, k[:, :last], out=d_out)
            d_k[:, :last].baddbmm_(scores.transpose(1, 2), q[:, first:last])
        self._rotate(self._heads[:2], self._heads[:2], -1.0)
        self._by_head(self._mixed, 3).copy_(self._heads.view(heads))
        self._add_product(name + "qkv", self._mixed, layer.normal_1)
        torch.mm(self._mixed, self._weights[name + "qkv"], out=self._narrow)
        self._normalise_back(self._narrow, layer.normal_1, layer.inverse_1, self._x)

"""Qwen3-MoE for training on a CPU: the arithmetic of transformers' Qwen3MoeForCausalLM.

Two places are written by hand, as PyTorch's own ways are slow there on one thread: the experts
(tokens sorted by expert, one matrix product an expert, gradients written in place) and the loss
(logits live for a few hundred tokens at a time).
"""

import torch
import torch.nn.functional as F
from torch import nn

from .config import ModelShape


# Fused by the compiler: in eager mode these take as long as the matrix products around them.


@torch.compile
def swiglu(projected):
    gate, up = projected.chunk(2, dim=1)
    return F.silu(gate) * up


@torch.compile
def swiglu_backward(projected, grad_activated):
    gate, up = projected.chunk(2, dim=1)
    sigmoid = torch.sigmoid(gate)
    silu = sigmoid * gate
    grad_gate = grad_activated * up * (sigmoid + silu * (1 - sigmoid))
    return torch.cat([grad_gate, grad_activated * silu], dim=1)


class GroupedExperts(torch.autograd.Function):
    """SwiGLU experts over the (token, choice) pairs that the router chose.

    x [tokens, hidden], chosen [tokens, k] expert ids, weights [tokens, k],
    gate_up [experts, 2 * intermediate, hidden], down [experts, hidden, intermediate].
    """

    @staticmethod
    def forward(ctx, x, chosen, weights, gate_up, down):
        tokens, k = chosen.shape
        order = torch.argsort(chosen.reshape(-1), stable=True)
        ends = torch.bincount(chosen.reshape(-1), minlength=gate_up.shape[0]).cumsum(0).tolist()
        sorted_x = x.index_select(0, order // k)
        projected = x.new_empty(len(order), gate_up.shape[1])
        start = 0
        for expert, end in enumerate(ends):
            torch.mm(sorted_x[start:end], gate_up[expert].T, out=projected[start:end])
            start = end
        activated = swiglu(projected)
        outputs = torch.empty_like(sorted_x)
        start = 0
        for expert, end in enumerate(ends):
            torch.mm(activated[start:end], down[expert].T, out=outputs[start:end])
            start = end
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        outputs = outputs.index_select(0, place).view(tokens, k, -1)
        ctx.save_for_backward(sorted_x, projected, activated, outputs, order, place, weights, gate_up, down)
        ctx.ends = ends
        return torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)

    @staticmethod
    def backward(ctx, grad):
        (sorted_x, projected, activated, outputs, order, place, weights, gate_up, down) = ctx.saved_tensors
        tokens, k = weights.shape
        grad_weights = torch.bmm(outputs, grad.unsqueeze(2)).squeeze(2)
        grad_outputs = grad.index_select(0, order // k)
        grad_outputs.mul_(weights.reshape(-1).index_select(0, order).unsqueeze(1))
        grad_activated = torch.empty_like(activated)
        grad_gate_up, grad_down = torch.zeros_like(gate_up), torch.zeros_like(down)
        start = 0
        for expert, end in enumerate(ctx.ends):
            torch.mm(grad_outputs[start:end], down[expert], out=grad_activated[start:end])
            torch.mm(grad_outputs[start:end].T, activated[start:end], out=grad_down[expert])
            start = end
        grad_projected = swiglu_backward(projected, grad_activated)
        grad_sorted = torch.empty_like(sorted_x)
        start = 0
        for expert, end in enumerate(ctx.ends):
            torch.mm(grad_projected[start:end], gate_up[expert], out=grad_sorted[start:end])
            torch.mm(grad_projected[start:end].T, sorted_x[start:end], out=grad_gate_up[expert])
            start = end
        grad_x = grad_sorted.index_select(0, place).view(tokens, k, -1).sum(1)
        return grad_x, None, grad_weights, grad_gate_up, grad_down


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over tokens of the cross entropy of x @ embedding.T; gradients are made on the way."""

    CHUNK = 512

    @staticmethod
    def forward(ctx, x, embedding, targets):
        total = 0.0
        grad_x, grad_embedding = torch.empty_like(x), torch.zeros_like(embedding)
        for start in range(0, len(x), ChunkedCrossEntropy.CHUNK):
            rows = slice(start, start + ChunkedCrossEntropy.CHUNK)
            logits = x[rows] @ embedding.T
            picked = targets[rows].unsqueeze(1)
            top = logits.max(dim=1, keepdim=True).values
            at_target = logits.gather(1, picked) - top
            probabilities = logits.sub_(top).exp_()
            sums = probabilities.sum(dim=1, keepdim=True)
            total += (sums.log() - at_target).sum().item()
            probabilities.div_(sums)
            probabilities.scatter_add_(1, picked, torch.full_like(at_target, -1.0))
            torch.mm(probabilities, embedding, out=grad_x[rows])
            grad_embedding.addmm_(probabilities.T, x[rows])
        ctx.save_for_backward(grad_x, grad_embedding)
        return x.new_tensor(total)

    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_embedding = ctx.saved_tensors
        return grad_x.mul_(grad), grad_embedding.mul_(grad), None


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotary_tables(shape: ModelShape, length: int):
    """cos and sin, [length, head_dim]; both halves of a head turn by the same angles."""
    frequency = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angle = torch.outer(torch.arange(length).float(), frequency)
    angle = torch.cat([angle, angle], dim=1)
    return angle.cos(), angle.sin()


def normalise_and_rotate(x, weight, eps: float, cos, sin):
    """x [batch, length, heads, head_dim]; RMSNorm of each head, then RoPE."""
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None, :] + torch.cat([-second, first], dim=-1) * sin[:, None, :]


class Attention(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        self.shape = shape
        query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, query, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, key, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, key, bias=False)
        self.o_proj = nn.Linear(query, shape.hidden_size, bias=False)
        self.q_norm = RmsNorm(shape.head_dim, shape.rms_norm_eps)
        self.k_norm = RmsNorm(shape.head_dim, shape.rms_norm_eps)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        heads = (batch, length, -1, self.shape.head_dim)
        query, key = (
            normalise_and_rotate(projection(x).view(heads), norm.weight, norm.eps, cos, sin).transpose(1, 2)
            for projection, norm in ((self.q_proj, self.q_norm), (self.k_proj, self.k_norm))
        )
        value = self.v_proj(x).view(heads).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class SparseMoe(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        self.k = shape.num_experts_per_tok
        experts, hidden, inner = shape.num_experts, shape.hidden_size, shape.moe_intermediate_size
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, inner))

    def route(self, x):
        """Returns the chosen experts, their weights, the two auxiliary losses, and each expert's number of choices."""
        logits = self.gate(x)
        probabilities = logits.softmax(dim=-1)
        weights, chosen = probabilities.topk(self.k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        load = F.one_hot(chosen, logits.shape[1]).sum((0, 1))
        share = load / load.sum()
        balance = logits.shape[1] * (share * probabilities.mean(dim=0)).sum()
        z = logits.logsumexp(dim=-1).square().mean()
        return chosen, weights, balance, z, load

    def mix(self, x, chosen, weights):
        return GroupedExperts.apply(x, chosen, weights, self.gate_up, self.down)


class Layer(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = SparseMoe(shape)

    def attend_and_route(self, x, cos, sin):
        """All that comes before the experts, in one piece for the compiler."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        normalised = self.post_attention_layernorm(x).flatten(0, 1)
        return x, normalised, *self.mlp.route(normalised)

    def forward(self, x, cos, sin):
        x, normalised, chosen, weights, balance, z, load = self.attend_and_route(x, cos, sin)
        return x + self.mlp.mix(normalised, chosen, weights).view_as(x), balance, z, load


class DemoModel(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        cos, sin = rotary_tables(shape, shape.max_position_embeddings)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    def initialise(self):
        """Projections into the residual stream start at zero, so that every layer starts as identity."""
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "mlp.down")):
                nn.init.zeros_(parameter)
            elif name == "embed_tokens.weight":
                nn.init.normal_(parameter, std=0.04)
            elif parameter.dim() >= 2:
                nn.init.normal_(parameter, std=0.5 * parameter.shape[-1] ** -0.5)

    def compile_layers(self):
        """For training, where all batches have one shape; evaluation's many shapes are run as they are."""
        for layer in self.layers:
            layer.attend_and_route = torch.compile(layer.attend_and_route, dynamic=False)

    def hidden_states(self, ids):
        """ids [batch, length] -> final hidden states, mean auxiliary losses, loads [layers, experts]."""
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        balance, z, loads = 0.0, 0.0, []
        for layer in self.layers:
            x, layer_balance, layer_z, load = layer(x, cos, sin)
            balance, z = balance + layer_balance, z + layer_z
            loads.append(load)
        layers = len(self.layers)
        return self.norm(x), balance / layers, z / layers, torch.stack(loads)

    def loss_sum(self, ids, targets):
        x, balance, z, loads = self.hidden_states(ids)
        loss = ChunkedCrossEntropy.apply(x.flatten(0, 1), self.embed_tokens.weight, targets.reshape(-1))
        return loss, balance, z, loads

    @torch.no_grad()
    def logits(self, ids):
        return self.hidden_states(ids)[0] @ self.embed_tokens.weight.T

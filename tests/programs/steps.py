"""The steps that random programs are made of: what users write around convolutions, in the spellings they use.

A step takes the draft, adds lines and returns True, or returns False where no live tensor fits. Values stay in a moderate range so
that no step divides by nothing or overflows.
"""

from __future__ import annotations

from collections.abc import Callable

from draft import Draft, Tensor

Step = Callable[[Draft], bool]
STEPS: dict[str, tuple[Step, int]] = {}
"""Step and weight by name."""


def step(weight: int = 1) -> Callable[[Step], Step]:
    def register(function: Step) -> Step:
        STEPS[function.__name__] = (function, weight)
        return function

    return register


def _conv(draft: Draft, x: Tensor, **given: object) -> tuple[str, tuple[int, ...]]:
    """A convolution member that keeps the image's size (or halves it), and its result's shape."""
    rng = draft.rng
    kernel = rng.choice([1, 3, 3, 5])
    stride = rng.choice([1, 1, 1, 2]) if min(x.shape[1:]) >= 6 else 1
    out = rng.choice([4, 8, 12])
    groups = rng.choice([1, 1, 1, 4]) if x.channels % 4 == 0 else 1
    bias = rng.random() < 0.6
    arguments = f"{x.channels}, {out}, {kernel}, stride={stride}, padding={kernel // 2}, groups={groups}, bias={bias}"
    cls = given.get("cls", "nn.Conv2d")
    member = draft.member("conv", f"{cls}({arguments})")
    return member, (out, *((size + stride - 1) // stride for size in x.shape[1:]))


# --- layers --------------------------------------------------------------------------------------------------------------


@step(6)
def conv(draft: Draft) -> bool:
    x = draft.image()
    if x is None:
        return False
    member, shape = _conv(draft, x)
    draft.value(shape, f"{member}({x.name})")
    return True


@step(6)
def conv_norm_act(draft: Draft) -> bool:
    x = draft.image()
    if x is None:
        return False
    member, shape = _conv(draft, x)
    norm = draft.member("norm", f"nn.BatchNorm2d({shape[0]})")
    act = draft.member(
        "act", draft.rng.choice(["nn.ReLU(inplace=True)", "nn.ReLU()", "nn.ReLU6()", "nn.SiLU()", "nn.LeakyReLU(0.1)"])
    )
    draft.value(shape, f"{act}({norm}({member}({x.name})))")
    return True


@step(4)
def residual_block(draft: Draft) -> bool:
    """conv + add + relu with the sum written in one of its spellings."""
    x = draft.image()
    if x is None:
        return False
    member = draft.member("conv", f"nn.Conv2d({x.channels}, {x.channels}, 3, padding=1, bias={draft.rng.random() < 0.5})")
    norm = draft.member("norm", f"nn.BatchNorm2d({x.channels})")
    y = draft.value(x.shape, f"{norm}({member}(torch.relu({x.name})))")
    form = draft.rng.choice(
        [
            "{y} + {x}",
            "{x} + {y}",
            "torch.add({y}, {x})",
            "{y}.add({x})",
            "torch.relu({y} + {x})",
            "F.relu({x} + {y}, inplace=True)",
        ]
    )
    draft.value(x.shape, form.format(x=x.name, y=y.name))
    return True


@step(2)
def residual_in_place(draft: Draft) -> bool:
    """`y += x` where x may be read later, and y is."""
    x = draft.image()
    if x is None:
        return False
    member = draft.member("conv", f"nn.Conv2d({x.channels}, {x.channels}, 3, padding=1)")
    y = draft.value(x.shape, f"{member}({x.name})")
    draft.line(draft.rng.choice([f"{y.name} += {x.name}", f"{y.name}.add_({x.name})", f"{y.name} = {y.name}.add_({x.name})"]))
    draft.value(x.shape, f"torch.relu({y.name})")
    return True


@step(1)
def subclassed_conv(draft: Draft) -> bool:
    x = draft.image()
    if x is None:
        return False
    member, shape = _conv(draft, x, cls="PlainConv")
    draft.value(shape, f"{member}({x.name})")
    return True


@step(1)
def functional_conv(draft: Draft) -> bool:
    x = draft.image()
    if x is None:
        return False
    weight = draft.member("weight", f"nn.Parameter(torch.randn(8, {x.channels}, 3, 3) * 0.2)")
    bias = draft.member("bias", "nn.Parameter(torch.zeros(8))") if draft.rng.random() < 0.5 else "None"
    computed = draft.rng.choice([weight, f"({weight} - {weight}.mean((1, 2, 3), keepdim=True))"])
    draft.value((8, *x.shape[1:]), f"F.conv2d({x.name}, {computed}, bias={bias}, padding=1)")
    return True


@step(1)
def transposed_conv(draft: Draft) -> bool:
    x = draft.image()
    if x is None or max(x.shape[1:]) > 12:
        return False
    member = draft.member("up", f"nn.ConvTranspose2d({x.channels}, 4, 2, stride=2)")
    draft.value((4, *(2 * size for size in x.shape[1:])), f"{member}({x.name})")
    return True


@step(2)
def shared_conv(draft: Draft) -> bool:
    """One module called twice, or two modules with one weight."""
    x = draft.image()
    if x is None:
        return False
    member = draft.member("conv", f"nn.Conv2d({x.channels}, {x.channels}, 3, padding=1)")
    y = draft.value(x.shape, f"torch.relu({member}({x.name}))")
    if draft.rng.random() < 0.5:
        twin = draft.member("conv", f"nn.Conv2d({x.channels}, {x.channels}, 3, padding=1, bias=False)")
        draft.init.append(f"{twin}.weight = {member}.weight")
        member = twin
    draft.value(x.shape, f"{member}({y.name})")
    return True


@step(1)
def batch_norm_alone(draft: Draft) -> bool:
    x = draft.pick(lambda tensor: len(tensor.shape) in (1, 2, 3))
    if x is None:
        return False
    kind = {1: "BatchNorm1d", 2: "BatchNorm1d", 3: "BatchNorm2d"}[len(x.shape)]
    norm = draft.member("norm", f"nn.{kind}({x.channels})")
    draft.value(x.shape, f"{norm}({x.name})")
    return True


@step(1)
def bias_read_directly(draft: Draft) -> bool:
    """The bias or the norm's weight of a fused layer is read beside the layer."""
    x = draft.image()
    if x is None:
        return False
    member = draft.member("conv", f"nn.Conv2d({x.channels}, 8, 3, padding=1)")
    norm = draft.member("norm", "nn.BatchNorm2d(8)")
    y = draft.value((8, *x.shape[1:]), f"F.relu({norm}({member}({x.name})))")
    which = draft.rng.choice([f"+ {member}.bias.view(1, -1, 1, 1)", f"* {norm}.weight.view(1, -1, 1, 1)"])
    draft.value(y.shape, f"{y.name} {which}")
    return True


@step(2)
def squeeze_excite(draft: Draft) -> bool:
    x = draft.image()
    if x is None:
        return False
    down = draft.member("fc", f"nn.Conv2d({x.channels}, 4, 1)")
    up = draft.member("fc", f"nn.Conv2d(4, {x.channels}, 1)")
    pooled = draft.rng.choice(
        ["F.adaptive_avg_pool2d({0}, 1)", "{0}.mean((2, 3), keepdim=True)", "torch.mean({0}, dim=[2, 3], keepdim=True)"]
    )
    gate = draft.rng.choice(["torch.sigmoid({0})", "F.hardsigmoid({0})", "{0}.sigmoid()"])
    pool = pooled.format(x.name)
    draft.value(x.shape, f"{x.name} * {gate.format(f'{up}(F.relu({down}({pool})))')}")
    return True


# --- arithmetic with parameters, constants and other tensors ------------------------------------------------------------------


@step(3)
def scaled_by_parameter(draft: Draft) -> bool:
    """A parameter or buffer on either side, alone or behind an operation."""
    x = draft.image()
    if x is None:
        return False
    shape = draft.rng.choice([f"1, {x.channels}, 1, 1", f"{x.channels}, 1, 1", "1"])
    if draft.rng.random() < 0.5:
        constant = draft.member("gamma", f"nn.Parameter(torch.rand({shape}) + 0.2)")
    else:
        constant = draft.buffer("scale", f"torch.rand({shape}) + 0.2")
    constant = draft.rng.choice(["{0}", "torch.exp({0})", "{0}.abs()", "F.softplus({0})"]).format(constant)
    form = draft.rng.choice(["{c} * {x}", "{x} * {c}", "{c} + {x}", "{x} - {c}", "{c} - {x}", "{x} / {c}"])
    draft.value(x.shape, form.format(c=constant, x=x.name))
    return True


@step(2)
def fusion_weights(draft: Draft) -> bool:
    x = draft.image()
    y = None if x is None else draft.pick(lambda tensor: tensor.shape == x.shape)
    if x is None or y is None:
        return False
    weight = draft.member("mix", "nn.Parameter(torch.tensor([0.3, 0.9]))")
    name = draft.fresh("w")
    draft.line(f"{name} = {draft.rng.choice([f'torch.relu({weight})', f'torch.softmax({weight}, 0)'])}")
    draft.line(f"{name} = {name} / ({name}.sum() + 1e-4)")
    draft.value(x.shape, f"{name}[0] * {x.name} + {name}[1] * {y.name}")
    return True


@step(2)
def constant_made_in_forward(draft: Draft) -> bool:
    x = draft.image()
    if x is None:
        return False
    channels, width = x.channels, x.shape[2]
    form = draft.rng.choice(
        [
            f"{{0}} * torch.linspace(0.1, 1, {width})",
            "{0} + torch.tensor(0.5)",
            f"{{0}} * torch.arange(1, {channels + 1}).view(1, -1, 1, 1) * 0.2",
            f"{{0}} + torch.full((1, {channels}, 1, 1), 0.25)",
            "{0} + torch.ones_like({0})",
            "{0} * {0}.new_full((1,), 0.5)",
        ]
    )
    draft.value(x.shape, form.format(x.name))
    return True


@step(1)
def selected_by_mask(draft: Draft) -> bool:
    x = draft.image()
    if x is None:
        return False
    mask = draft.buffer("mask", f"torch.arange({x.shape[2]}) % 2 == 0")
    form = draft.rng.choice(
        ["torch.where({m}, {x}, {x} * 0.5)", "torch.where({m}, torch.zeros(()), {x})", "{x} * {m}", "{x}.masked_fill({m}, 0.0)"]
    )
    draft.value(x.shape, form.format(m=mask, x=x.name))
    return True


@step(3)
def arithmetic(draft: Draft) -> bool:
    x = draft.pick()
    y = None if x is None else draft.pick(lambda tensor: tensor.shape == x.shape)
    if x is None or y is None:
        return False
    form = draft.rng.choice(
        [
            "{x} + {y}", "{x} - {y}", "{x} * {y}", "torch.maximum({x}, {y})", "torch.add({x}, {y}, alpha=2)",
            "torch.add(input={x}, other={y})",
            "{x} * 0.3", "{x} / 3.33", "-{x}", "1.0 - {x}", "{x} + 3", "{x} * 100.0", "({x} > 0.1).float() * {y}", "{x}.detach() // 0.5",
            "{x}.abs()",
            "({x} ** 2)", "torch.sqrt({x} ** 2 + 1.0)", "{x}.clamp(-0.5, 0.5)", "torch.clamp({x}, min=0)", "{x}.clone().clamp_(min=0)",
        ]
    )  # fmt: skip
    draft.value(x.shape, form.format(x=x.name, y=y.name))
    return True


@step(3)
def activation(draft: Draft) -> bool:
    x = draft.pick()
    if x is None:
        return False
    form = draft.rng.choice(
        [
            "F.relu({0})", "{0}.relu()", "torch.sigmoid({0})", "torch.tanh({0})", "F.silu({0})", "F.gelu({0})", "F.hardswish({0})",
            "F.elu({0})",
            "F.leaky_relu({0}, 0.2)", "F.selu({0})", "F.softplus({0})", "F.mish({0})", "{0} * torch.sigmoid({0})",
            "torch.exp({0}.clamp(max=2))",
        ]
    )  # fmt: skip
    draft.value(x.shape, form.format(x.name))
    return True


@step(2)
def dropout(draft: Draft) -> bool:
    x = draft.pick()
    if x is None:
        return False
    module = draft.member("drop", draft.rng.choice(["nn.Dropout(0.1)", "nn.Identity()"]))
    form = draft.rng.choice(
        [f"{module}({{0}})", "F.dropout({0}, 0.1, self.training)", "F.dropout({0}, p=0.1, training=self.training)"]
    )
    draft.value(x.shape, form.format(x.name))
    return True


# --- shapes ----------------------------------------------------------------------------------------------------------------


@step(2)
def joined(draft: Draft) -> bool:
    x = draft.image()
    y = None if x is None else draft.pick(lambda tensor: len(tensor.shape) == 3 and tensor.shape[1:] == x.shape[1:])
    if x is None or y is None or x.channels + y.channels > 48:
        return False
    form = draft.rng.choice(
        [
            "torch.cat([{x}, {y}], 1)",
            "torch.cat(({x}, {y}), dim=1)",
            "torch.cat(tensors=[{x}, {y}], dim=-3)",
            "torch.concat([{x}, {y}], 1)",
        ]
    )
    draft.value((x.channels + y.channels, *x.shape[1:]), form.format(x=x.name, y=y.name))
    return True


@step(2)
def split_and_joined(draft: Draft) -> bool:
    """The C2f idiom: a list of chunks that grows, and a cat of it."""
    x = draft.pick(lambda tensor: len(tensor.shape) == 3 and tensor.channels % 2 == 0)
    if x is None:
        return False
    half = x.channels // 2
    member = draft.member("conv", f"nn.Conv2d({half}, {half}, 3, padding=1)")
    parts = draft.fresh("parts")
    form = draft.rng.choice(
        [f"list({x.name}.chunk(2, 1))", f"list({x.name}.split({half}, 1))", f"[{x.name}[:, :{half}], {x.name}[:, {half}:]]"]
    )
    draft.line(f"{parts} = {form}")
    draft.line(f"{parts}.append(torch.relu({member}({parts}[-1])))")
    draft.value((3 * half, *x.shape[1:]), f"torch.cat({parts}, 1)")
    return True


@step(2)
def pooled(draft: Draft) -> bool:
    x = draft.image(least=4)
    if x is None:
        return False
    height, width = x.shape[1:]
    forms = [
        ("F.max_pool2d({0}, 2)", (height // 2, width // 2)),
        ("F.avg_pool2d({0}, 2)", (height // 2, width // 2)),
        ("F.max_pool2d({0}, 3, 1, 1)", (height, width)),
        ("F.avg_pool2d({0}, 3, 2, 1, count_include_pad=False)", ((height + 1) // 2, (width + 1) // 2)),
        ("F.avg_pool2d({0}, 2, ceil_mode=True)", ((height + 1) // 2, (width + 1) // 2)),
        ("F.adaptive_avg_pool2d({0}, (2, 2))", (2, 2)),
        ("F.adaptive_max_pool2d({0}, 1)", (1, 1)),
        ("F.max_pool2d({0}, 2, return_indices=True)[0]", (height // 2, width // 2)),
    ]
    form, size = draft.rng.choice(forms)
    draft.value((x.channels, *size), form.format(x.name))
    return True


@step(2)
def resized(draft: Draft) -> bool:
    x = draft.image()
    if x is None or max(x.shape[1:]) > 10:
        return False
    height, width = x.shape[1:]
    forms = [
        ("F.interpolate({0}, scale_factor=2)", (2 * height, 2 * width)),
        ('F.interpolate({0}, scale_factor=2.0, mode="bilinear", align_corners=False)', (2 * height, 2 * width)),
        ('F.interpolate({0}, size=({0}.shape[2] * 2, {0}.shape[3] * 2), mode="nearest")', (2 * height, 2 * width)),
        ('F.interpolate({0}, scale_factor=1.3, mode="bilinear", align_corners=False)', (int(1.3 * height), int(1.3 * width))),
        ('F.interpolate({0}, size=(7, 9), mode="bilinear", align_corners=True)', (7, 9)),
    ]
    form, size = draft.rng.choice(forms)
    draft.value((x.channels, *size), form.format(x.name))
    return True


@step(2)
def padded(draft: Draft) -> bool:
    x = draft.image(least=3)
    if x is None or max(x.shape[1:]) > 14:
        return False
    form = draft.rng.choice(
        [
            "F.pad({0}, (1, 1, 1, 1))",
            "F.pad({0}, [1, 1, 1, 1], value=4.0)",
            'F.pad({0}, (1, 1, 1, 1), mode="reflect")',
            "F.pad({0}, pad=(1, 1, 1, 1), value=-0.5)",
        ]
    )
    draft.value((x.channels, *(size + 2 for size in x.shape[1:])), form.format(x.name))
    return True


@step(2)
def shape_reads(draft: Draft) -> bool:
    """Sizes read from any value, also from inside a fused group."""
    x = draft.image()
    if x is None:
        return False
    channels, height, width = x.shape
    b, c, h, w = (draft.fresh(letter) for letter in "bchw")
    draft.line(f"{b}, {c}, {h}, {w} = {x.name}.{draft.rng.choice(['shape', 'size()'])}")
    forms = [
        (f"{x.name}.view({b}, {c}, {h} * {w})", (channels, height * width)),
        (f"{x.name}.reshape({b}, {c}, -1).permute(0, 2, 1)", (height * width, channels)),
        (f"{x.name}.reshape({b}, -1)", (channels * height * width,)),
        (f"{x.name}.view({b}, 1, {c}, {h}, {w})", (1, channels, height, width)),
    ]
    form, shape = draft.rng.choice(forms)
    draft.value(shape, form)
    return True


@step(2)
def flattened(draft: Draft) -> bool:
    x = draft.image()
    if x is None:
        return False
    channels, height, width = x.shape
    forms = [
        ("{0}.flatten(1)", (channels * height * width,)),
        ("torch.flatten({0}, 2).transpose(1, 2)", (height * width, channels)),
        ("{0}.mean((2, 3))", (channels,)),
        ("F.adaptive_avg_pool2d({0}, 1).flatten(1)", (channels,)),
        ("{0}.amax(dim=(2, 3))", (channels,)),
    ]
    form, shape = draft.rng.choice(forms)
    draft.value(shape, form.format(x.name))
    return True


@step(2)
def rearranged(draft: Draft) -> bool:
    x = draft.pick(lambda tensor: len(tensor.shape) == 3 and tensor.channels % 4 == 0)
    if x is None:
        return False
    channels, height, width = x.shape
    forms = [
        ("torch.roll({0}, (1, 1), (2, 3))", x.shape),
        ("{0}.flip(3)", x.shape),
        ("F.pixel_shuffle({0}, 2)", (channels // 4, 2 * height, 2 * width)),
        ("{0}.permute(0, 1, 3, 2).contiguous()", (channels, width, height)),
        ("{0}[:, ::2]", (channels // 2, height, width)),
        ("{0}[..., :1].expand(-1, -1, -1, 3).contiguous()", (channels, height, 3)),
        ("F.channel_shuffle({0}, 2)", x.shape),
        ("torch.stack([{0}, {0} * 0.5], dim=1).sum(1)", x.shape),
        ("torch.stack({0}.unbind(1), 1)", x.shape),
    ]
    form, shape = draft.rng.choice(forms)
    draft.value(shape, form.format(x.name))
    return True


# --- vectors, tokens and operations of several results ------------------------------------------------------------------------


@step(3)
def linear(draft: Draft) -> bool:
    x = draft.pick(lambda tensor: len(tensor.shape) in (1, 2) and tensor.shape[-1] <= 2000)
    if x is None:
        return False
    size = x.shape[-1]
    if draft.rng.random() < 0.7:
        layer = f"{draft.member('fc', f'nn.Linear({size}, 8)')}({x.name})"
    else:
        weight = draft.member("weight", f"nn.Parameter(torch.randn(8, {size}) * 0.2)")
        layer = draft.rng.choice([f"F.linear({x.name}, {weight})", f"{x.name} @ {weight}.t()"])
    draft.value((*x.shape[:-1], 8), draft.rng.choice(["{0}", "torch.relu({0})"]).format(layer))
    return True


@step(5)
def tokens(draft: Draft) -> bool:
    """A class token, a position table, layer norm and attention."""
    x = draft.pick(lambda tensor: len(tensor.shape) == 2 and tensor.shape[1] % 4 == 0 and tensor.shape[0] <= 80)
    if x is None:
        return False
    length, width = x.shape
    token = draft.member("cls_token", f"nn.Parameter(torch.randn(1, 1, {width}) * 0.1)")
    table = draft.member("position", f"nn.Parameter(torch.randn(1, {length + 1}, {width}) * 0.1)")
    y = draft.value((length + 1, width), f"torch.cat([{token}.expand({x.name}.shape[0], -1, -1), {x.name}], dim=1) + {table}")
    norm = draft.member("norm", f"nn.LayerNorm({width})")
    z = draft.value(y.shape, f"{norm}({y.name})")
    if draft.rng.random() < 0.5:
        attention = draft.member("attention", f"nn.MultiheadAttention({width}, 2, batch_first=True)")
        mixed = f"{attention}({z.name}, {z.name}, {z.name}, need_weights=False)[0]"
    else:
        qkv = draft.member("qkv", f"nn.Linear({width}, {3 * width})")
        q, k, v = (draft.fresh(letter) for letter in "qkv")
        draft.line(f"{q}, {k}, {v} = {qkv}({z.name}).chunk(3, dim=-1)")
        mixed = f"(({q} @ {k}.transpose(-2, -1)) * {width**-0.5:.4f}).softmax(dim=-1) @ {v}"
    draft.value(y.shape, f"{y.name} + {mixed}")
    return True


@step(4)
def recurrent(draft: Draft) -> bool:
    x = draft.pick(lambda tensor: len(tensor.shape) == 2 and tensor.shape[1] <= 64 and tensor.shape[0] <= 80)
    if x is None:
        return False
    cell = draft.member("rnn", f"nn.{draft.rng.choice(['LSTM', 'GRU'])}({x.shape[1]}, 6, batch_first=True)")
    y = Tensor(draft.fresh("t"), (x.shape[0], 6))
    draft.line(f"{y.name}, _ = {cell}({x.name})")
    draft.live.append(y)
    return True


@step(2)
def best_of(draft: Draft) -> bool:
    """topk: values and indices, of which only the values go on."""
    x = draft.pick(lambda tensor: len(tensor.shape) in (1, 2) and tensor.shape[-1] >= 4)
    if x is None:
        return False
    y = Tensor(draft.fresh("t"), (*x.shape[:-1], 3))
    draft.line(
        draft.rng.choice([f"{y.name}, _ = {x.name}.topk(3, dim=-1)", f"{y.name} = torch.topk({x.name}, k=3, dim=-1)[0]"])
    )
    draft.live.append(y)
    return True


@step(2)
def normalized(draft: Draft) -> bool:
    x = draft.pick(lambda tensor: len(tensor.shape) in (1, 2, 3))
    if x is None:
        return False
    forms = [
        "F.normalize({0}, dim=1)",
        "{0} / ({0}.norm(dim=1, keepdim=True) + 0.5)",
        "F.softmax({0}, dim=1)",
        "F.log_softmax({0}, 1)",
        "{0} - {0}.mean(1, keepdim=True)",
    ]
    draft.value(x.shape, draft.rng.choice(forms).format(x.name))
    return True


@step(2)
def group_norm(draft: Draft) -> bool:
    x = draft.pick(lambda tensor: len(tensor.shape) == 3 and tensor.channels % 2 == 0 and tensor.shape[1] * tensor.shape[2] > 1)
    if x is None:
        return False
    norm = draft.member("norm", draft.rng.choice([f"nn.GroupNorm(2, {x.channels})", f"nn.InstanceNorm2d({x.channels})"]))
    draft.value(x.shape, f"{norm}({x.name})")
    return True

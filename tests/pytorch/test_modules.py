"""Packed modules as PyTorch's own: results, gradients, compilation, state dicts, copies."""

import copy
import io
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

import binq

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch", minversion="2.6")
import binq.torch  # noqa: E402

torch.set_num_threads(1)
MODES = {"float32": 2e-6, "int16": 5e-4, "int8": 3e-2}
FORMATS = tuple(sorted(binq.formats.FORMATS))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make(*shape, format="int4", **arguments):
    w = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
    arguments = {"group_size": 32} | arguments
    return binq.quantize(w, format, **arguments)


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)).to(dtype)


def layer(*shape, bias=True, **arguments):
    q = make(*shape, **arguments)
    return binq.torch.QuantizedLinear(q, normal(shape[0]) if bias else None)


def distance(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


class TestLinear:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("bias", [False, True])
    def test_is_the_linear_layer_of_the_dequantized_weights(self, format, mode, bias):
        packed = binq.torch.set_activations(layer(40, 96, format=format, bias=bias), mode)
        floats = packed.dequantize()
        assert type(floats) is torch.nn.Linear
        for shape in ((96,), (1, 96), (2, 3, 96), (0, 96)):
            y = packed(normal(*shape))
            assert y.shape == (*shape[:-1], 40)
            assert y.dtype is torch.float32
            if y.numel():
                assert distance(y, floats(normal(*shape))) <= MODES[mode]

    def test_has_the_bits_of_binq(self):
        q, x = make(40, 96), normal(5, 96)
        y = binq.torch.QuantizedLinear(q)(x)
        np.testing.assert_array_equal(y.numpy(), binq.linear(x.numpy(), q))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_results_have_the_dtype_of_x(self, dtype):
        packed, x = layer(40, 96).to(dtype), normal(3, 96, dtype=dtype)
        assert packed(x).dtype is dtype
        y = torch.from_numpy(binq.linear(x.float().numpy(), packed.weight.array)).to(dtype)
        np.testing.assert_array_equal(
            packed(x).detach().float(), (y + packed.bias.detach()).float()
        )
        assert packed.weight.dtype is dtype

    def test_casts_leave_the_packed_weights_alone(self):
        packed = layer(40, 96)
        before = packed.weight.array
        packed.half().double().bfloat16().float()
        assert packed.weight.array is before
        assert packed.bias.dtype is torch.float32

    def test_strided_x(self):
        packed = layer(40, 96)
        x = normal(96, 5).T
        np.testing.assert_array_equal(packed(x).detach(), packed(x.contiguous()).detach())

    def test_stays_on_the_cpu(self):
        with pytest.raises(RuntimeError, match="packed weights multiply on the CPU"):
            layer(40, 96)._apply(lambda t: SimpleNamespace(device=SimpleNamespace(type="cuda")))

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (("q",), TypeError, "q must be a QuantizedArray, got str"),
            ((make(2, 40, 96),), ValueError, "q must be one matrix"),
            (
                (make(40, 96), torch.zeros(3)),
                ValueError,
                r"bias must have shape \(40,\), got \(3,\)",
            ),
            ((make(40, 96), None, "int5"), ValueError, "activations must be one of"),
        ],
    )
    def test_wrong_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            binq.torch.QuantizedLinear(*arguments)

    def test_wrong_x_is_named(self):
        with pytest.raises(ValueError, match=r"x must have shape \(..., 96\)"):
            layer(40, 96)(normal(2, 95))

    def test_says_what_it_is(self):
        assert repr(layer(40, 96)) == "QuantizedLinear(96, 40, int4 g32, bias=True)"


class TestGradients:
    @pytest.mark.parametrize("mode", MODES)
    def test_of_x_and_bias(self, mode):
        packed = binq.torch.set_activations(layer(40, 96), mode)
        floats = packed.dequantize()
        x, same = (normal(2, 3, 96).requires_grad_() for _ in range(2))
        dy = normal(2, 3, 40)
        packed(x).backward(dy)
        floats(same).backward(dy)
        assert distance(x.grad, same.grad) <= 1e-6
        assert distance(packed.bias.grad, floats.bias.grad) <= 1e-6

    def test_an_adapter_on_top_learns(self):
        """Low-rank factors beside packed weights, as LoRA has them, fit a target."""
        base = layer(40, 96, bias=False)
        below, down, up = (torch.nn.Linear(*s, bias=False) for s in ((96, 96), (96, 4), (4, 40)))
        torch.nn.init.zeros_(up.weight)
        parameters = [*below.parameters(), *down.parameters(), *up.parameters()]
        optimizer = torch.optim.Adam(parameters, 1e-2)
        x, target = normal(64, 96), normal(64, 40) * 3
        losses = []
        for _ in range(60):
            h = below(x)
            loss = ((base(h) + up(down(h)) - target) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2

    def test_without_gradients_nothing_is_recorded(self):
        packed, x = layer(40, 96), normal(3, 96).requires_grad_()
        with torch.no_grad():
            assert not packed(x).requires_grad
        packed.bias.requires_grad_(False)
        assert packed(x).requires_grad
        assert not packed(x.detach()).requires_grad


class TestEmbedding:
    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_rows(self, format, dtype):
        q = make(70, 96, format=format)
        table = binq.torch.QuantizedEmbedding(q, dtype)
        w = torch.from_numpy(q.dequantize()).to(dtype)
        for ids in (
            torch.tensor(5),
            torch.tensor([[3, 69, 3], [0, 1, 2]]),
            torch.zeros(0, dtype=int),
        ):
            rows = table(ids)
            assert rows.dtype is dtype
            np.testing.assert_array_equal(rows.float(), w[ids].float())

    def test_casts_change_what_it_returns(self):
        table = binq.torch.QuantizedEmbedding(make(70, 96)).bfloat16()
        assert table(torch.tensor([1])).dtype is torch.bfloat16

    @pytest.mark.parametrize("wrong", [-1, 70])
    def test_ids_out_of_range(self, wrong):
        with pytest.raises(IndexError, match=f"ids must be from 0 to 69, got {wrong}"):
            binq.torch.QuantizedEmbedding(make(70, 96))(torch.tensor([0, wrong]))

    def test_says_what_it_is(self):
        assert (
            repr(binq.torch.QuantizedEmbedding(make(70, 96)))
            == "QuantizedEmbedding(70, 96, int4 g32)"
        )


class TestStateDict:
    def test_keys_are_those_of_files(self, tmp_path):
        model = torch.nn.Sequential(layer(40, 96), layer(33, 40, format="binary", symmetric=False))
        tensors = {f"{n}.weight": model[n].weight.array for n in (0, 1)}
        binq.save_file(tensors, tmp_path / "m.safetensors")
        load_file = pytest.importorskip("safetensors.torch").load_file
        stored, state = load_file(tmp_path / "m.safetensors"), model.state_dict()
        assert set(state) == {*stored, "0.bias", "1.bias"}
        for name, tensor in stored.items():
            np.testing.assert_array_equal(tensor, state[name])

    @pytest.mark.parametrize("assign", [False, True])
    def test_load(self, assign):
        model, other = layer(40, 96), layer(40, 96)
        codes = np.random.default_rng(1).integers(-8, 8, (40, 96))
        scales = np.full((40, 3), 0.5)
        q = binq.QuantizedArray.from_codes(codes, scales, format="int4", group_size=32)
        model = binq.torch.QuantizedLinear(q, torch.zeros(40))
        result = other.load_state_dict(model.state_dict(), assign=assign)
        assert not result.missing_keys
        assert not result.unexpected_keys
        assert other.weight.array == q
        np.testing.assert_array_equal(other(normal(2, 96)).detach(), model(normal(2, 96)).detach())

    def test_load_of_something_else(self):
        packed = layer(40, 96)
        state = packed.state_dict()
        with pytest.raises(RuntimeError, match="packed must have shape"):
            packed.load_state_dict(state | {"weight.packed": state["weight.packed"][:1]})
        with pytest.raises(RuntimeError, match="packed must have dtype uint8"):
            packed.load_state_dict(state | {"weight.packed": state["weight.packed"].float()})
        with pytest.raises(RuntimeError, match=r'Missing key.*"weight.packed"'):
            packed.load_state_dict(packed.dequantize().state_dict())

    def test_torch_save(self, tmp_path):
        packed = layer(40, 96)
        torch.save(packed.state_dict(), tmp_path / "m.pt")
        other = layer(40, 96, format="int4")
        other.load_state_dict(torch.load(tmp_path / "m.pt"))
        assert other.weight.array == packed.weight.array

    def test_tied_modules_have_one_key(self):
        model = tied_model()
        binq.torch.quantize_(model, "int4", 32, filter=lambda name, module: True)
        assert [key for key in model.state_dict() if key.endswith("packed")] == ["0.weight.packed"]
        assert model[1].weight.array is model[0].weight.array
        other = tied_model(seed=1)
        binq.torch.quantize_(other, "int4", 32, filter=lambda name, module: True)
        other.load_state_dict(model.state_dict())
        assert other[1].weight.array == model[0].weight.array


def tied_model(seed=0):
    torch.manual_seed(seed)
    table, head = torch.nn.Embedding(70, 96), torch.nn.Linear(96, 70, bias=False)
    head.weight = table.weight
    return torch.nn.Sequential(table, head)


class ScaledEmbedding(torch.nn.Embedding):
    """An embedding as Gemma has it, with a forward of its own."""

    def forward(self, ids):
        return super().forward(ids) * 3


def copies(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return {
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "torch.save": torch.load(buffer, weights_only=False),
    }


class TestCopies:
    @pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
    def test_are_whole_and_apart(self, way):
        model = torch.nn.Sequential(ScaledEmbedding(70, 96), layer(40, 96))
        binq.torch.quantize_(model, "int4", 32, filter=lambda name, module: True)
        binq.torch.set_activations(model, "int8")
        ids, expected = torch.tensor([4, 2]), model(torch.tensor([4, 2]))
        other = copies(model)[way]
        assert [type(m) for m in other] == [type(m) for m in model]
        np.testing.assert_array_equal(other(ids).detach(), expected.detach())
        assert other[1].activations == "int8"
        assert other[1]._cell.handle != model[1]._cell.handle
        assert not np.shares_memory(other[1].weight.array.packed, model[1].weight.array.packed)
        del model
        compiled = torch.compile(other, fullgraph=True, backend="eager")
        np.testing.assert_array_equal(compiled(ids).detach(), expected.detach())

    @pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
    def test_tied_modules_stay_tied(self, way):
        model = binq.torch.quantize_(tied_model(), "int4", 32, filter=lambda name, module: True)
        other = copies(model)[way]
        assert other[0]._cell is other[1]._cell


class TestCompile:
    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_whole_graph(self, backend):
        model = torch.nn.Sequential(
            binq.torch.QuantizedEmbedding(make(70, 96)), layer(40, 96), torch.nn.GELU()
        )
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        for ids in (torch.tensor([1, 2, 3]), torch.tensor([5])):
            assert distance(compiled(ids).detach(), model(ids).detach()) <= 1e-6

    def test_gradients(self):
        model = torch.nn.Sequential(layer(40, 96), torch.nn.GELU())
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        x, same = (normal(3, 96).requires_grad_() for _ in range(2))
        compiled(x).sum().backward()
        model(same).sum().backward()
        assert distance(x.grad, same.grad) <= 1e-6

    def test_new_weights_are_seen(self):
        model, other = layer(40, 96), layer(40, 96, bias=True)
        other = binq.torch.QuantizedLinear(make(40, 96)[::-1], torch.zeros(40))
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        compiled(normal(2, 96))
        model.load_state_dict(other.state_dict())
        np.testing.assert_array_equal(
            compiled(normal(2, 96)).detach(), other(normal(2, 96)).detach()
        )


@pytest.mark.parametrize(
    ("format", "settings"),
    [
        ("int4", {"scale_dtype": "bfloat16"}),
        ("int4", {"scale_dtype": "bfloat16", "symmetric": False, "zero": "offset"}),
        ("mxfp4", {}),
        ("iq4nl", {}),
    ],
)
def test_state_dicts_hold_every_type_of_scales(format, settings):
    w = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    layer = binq.torch.QuantizedLinear(binq.quantize(w, format, **settings))
    other = binq.torch.QuantizedLinear(binq.quantize(2 * w, format, **settings))
    state = layer.state_dict()
    kind = {"mxfp4": torch.uint8, "iq4nl": torch.float16}.get(format, torch.bfloat16)
    assert all(part.dtype == kind for name, part in state.items() if "packed" not in name)
    other.load_state_dict(state)
    x = torch.ones(3, 128)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))

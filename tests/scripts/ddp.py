"""Two processes train one model: started by torchrun, or (with the argument `spawn`) by torch.multiprocessing."""

import os
import sys

import torch
import torch.distributed as dist
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.quantization import QuantWrapper, get_default_qat_qconfig, prepare_qat_fx
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def train(rank, world, method):
    import horizon_plugin_pytorch  # known in the child too

    assert horizon_plugin_pytorch.get_march is not None
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=world)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    set_march(March.BAYES)
    net = QuantWrapper(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    data = torch.rand(2, 3, 8, 8) * (rank + 1)
    model = DistributedDataParallel(prepare_qat_fx(net, {"": get_default_qat_qconfig()}, example_inputs=data))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()
    scale = model.module.quant.activation_post_process.scale.clone()
    largest = scale.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    assert torch.equal(scale, largest)
    if rank == 0:
        print(f"trained by {world}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1:] == ["spawn"]:
        path = os.path.abspath("rendezvous")
        torch.multiprocessing.spawn(train, args=(2, f"file://{path}"), nprocs=2)
    else:
        train(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "env://")

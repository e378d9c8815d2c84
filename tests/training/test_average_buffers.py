"""Running statistics of several processes: their mean, and the same bits where they were the same."""

import multiprocessing
import sys
import threading

import pytest
import torch
from torch import nn

from hf_dinoseg.training.distributed import average_buffers


class Model(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.norm, self.other = nn.BatchNorm2d(200), nn.Linear(2, 2)
        self.register_buffer("rotary", torch.rand(50, generator=torch.Generator().manual_seed(1)))
        for statistics in (self.norm.running_mean, self.norm.running_var):
            statistics.copy_(torch.randn(200, generator=torch.Generator().manual_seed(seed)))


def _statistics(model):
    return torch.stack([model.norm.running_mean, model.norm.running_var])


class Processes:
    """Threads that stand for processes: torch's two collectives, by their definition."""

    def __init__(self, count):
        self.count, self.barrier, self.given = count, threading.Barrier(count), [None] * count
        self.local = threading.local()

    def _all(self, tensor):
        self.given[self.local.rank] = tensor.clone()
        self.barrier.wait()
        given = list(self.given)
        self.barrier.wait()
        return given

    def broadcast(self, tensor, source):
        tensor.copy_(self._all(tensor)[source])

    def all_reduce(self, tensor):
        given = self._all(tensor)
        total = given[0].clone()
        for each in given[1:]:
            total += each
        tensor.copy_(total)

    def run(self, models):
        def work(rank):
            self.local.rank = rank
            average_buffers(models[rank])

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.count)]
        [thread.start() for thread in threads]
        [thread.join(30) for thread in threads]


@pytest.mark.parametrize("count", range(1, 9))
def test_equal_ones_stay_equal_bit_for_bit_and_others_get_their_mean(count, monkeypatch):
    processes = Processes(count)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: count)
    monkeypatch.setattr(torch.distributed, "broadcast", processes.broadcast)
    monkeypatch.setattr(torch.distributed, "all_reduce", processes.all_reduce)
    equal = [Model(seed=7) for _ in range(count)]
    processes.run(equal)
    for model in equal:
        for name, buffer in Model(seed=7).named_buffers():
            assert torch.equal(model.get_buffer(name), buffer), name
    different = [Model(seed) for seed in range(count)]
    mean = torch.stack([_statistics(model).double() for model in different]).mean(0)
    processes.run(different)
    for model in different:
        assert torch.equal(_statistics(model), _statistics(different[0]))
        torch.testing.assert_close(_statistics(model).double(), mean, rtol=1e-6, atol=1e-6)
        assert torch.equal(model.rotary, Model(0).rotary)


def _process(rank, meeting, results):
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=3)
    equal, different = Model(7), Model(rank)
    average_buffers(equal)
    average_buffers(different)
    results.put((rank, [b.tolist() for b in equal.buffers()], _statistics(different).tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_three_processes_over_gloo(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_process, args=(rank, f"file://{tmp_path}/meeting", results)) for rank in range(3)
    ]
    [process.start() for process in processes]
    found = [results.get(timeout=120) for _ in processes]
    [process.join(60) for process in processes]
    mean = torch.stack([_statistics(Model(rank)).double() for rank in range(3)]).mean(0)
    for _, equal, different in found:
        assert equal == [buffer.tolist() for buffer in Model(7).buffers()]
        assert different == found[0][2]
        torch.testing.assert_close(torch.tensor(different).double(), mean, rtol=1e-6, atol=1e-6)

import torch
from torch import nn

from hf_dinoseg.training.distributed import synchronise_batch_norms

ELSEWHERE = torch.device("meta")  # stands for an accelerator: nothing is computed


def small_model():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    model[1].weight.data.fill_(3.0)
    model[1].running_mean.fill_(2.0)
    return model


def test_batch_norms_are_made_one_over_processes_on_accelerators_and_keep_what_they_hold():
    model = small_model()
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert synchronise_batch_norms(model, ELSEWHERE, processes=2)
    assert [type(m) for m in (model[0][1], model[1], model[2])] == [nn.SyncBatchNorm, nn.SyncBatchNorm, nn.GroupNorm]
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(before) == list(after) and all(after[name] is tensor for name, tensor in before.items())


def test_one_process_or_a_cpu_or_nothing_that_learns_leaves_them(caplog):
    model = small_model()
    assert not synchronise_batch_norms(model, ELSEWHERE, processes=1)
    assert not synchronise_batch_norms(model.requires_grad_(False), ELSEWHERE, processes=2)
    assert not caplog.records
    assert not synchronise_batch_norms(model.requires_grad_(True), torch.device("cpu"), processes=2)
    assert type(model[1]) is nn.BatchNorm2d
    assert "2 batch norms normalise by each process's own part" in caplog.text

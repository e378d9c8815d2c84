import torch

from hf_dinoseg.training.schedule import two_stage_schedule


def test_the_backbone_rests_then_warms_up_while_the_head_decays():
    one, two = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [one], "name": "head", "lr": 1.0}, {"params": [two], "name": "backbone_3", "lr": 2.0}]
    optimizer = torch.optim.SGD(groups)
    schedule = two_stage_schedule(optimizer, head_warmup=2, backbone_warmup=4, num_training_steps=10)
    seen = []
    for _ in range(11):
        seen.append(tuple(round(g["lr"], 4) for g in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    # head: (1 - (t - 2) / 8) ** 0.9 from step 2; backbone: 0, 0, then quarters of 2, then 2 (1 - (t - 6) / 4) ** 0.9
    head = [0.0, 0.5, *[round((1 - t / 8) ** 0.9, 4) for t in range(8)], 0.0]
    backbone = [0.0, 0.0, 0.0, 0.5, 1.0, 1.5, *[round(2 * (1 - t / 4) ** 0.9, 4) for t in range(4)], 0.0]
    assert seen == list(zip(head, backbone, strict=True))

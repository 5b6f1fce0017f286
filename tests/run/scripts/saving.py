"""A script with a SIGTERM handler of its own, in the manner of those written for a cluster: the handler sets a flag,
the loop saves at the next step and leaves with 0.
"""

import argparse
import os
import signal
import sys
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--out", default="out")
parser.add_argument("--resume", default="")
parser.add_argument("--hang-at", type=int, default=0)
args = parser.parse_args()

interrupted = False


def on_sigterm(number, frame):
    global interrupted  # noqa: PLW0603
    interrupted = True


signal.signal(signal.SIGTERM, on_sigterm)
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters())
first = 0
if args.resume:
    state = torch.load(args.resume)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    first = state["step"]
    print("resumed at", first)

os.makedirs(args.out, exist_ok=True)


def save(step):
    name = f"{args.out}/checkpoint-{step}.pt"
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, name + ".tmp")
    os.replace(name + ".tmp", name)


for step in range(first + 1, args.steps + 1):
    loss = model(torch.full((8, 4), float(step % 7))).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(0.005)
    sys.stdout.write(f"\r{step}/{args.steps} loss={loss.item():.4f}")
    if step == args.hang_at and not os.path.exists("hung"):
        open("hung", "w").close()
        time.sleep(600)
    if step % 100 == 0:
        save(step)
    if interrupted:
        save(step)
        print("\nsaved at", step)
        sys.exit(0)
print("\ndone")

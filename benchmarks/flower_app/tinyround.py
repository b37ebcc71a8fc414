"""A round of Flower's FedAvg over participants that answer at once; runs in Flower's processes."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Sends back what came, as if nothing had been learnt."""
    reply = {
        "arrays": message.content["arrays"],
        "metrics": MetricRecord({"num-examples": 10}),
    }
    return Message(content=RecordDict(reply), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Starts the clock when all participants are there and stops it with the last aggregation."""
    participants, rounds = context.run_config["participants"], context.run_config["rounds"]
    while len(list(grid.get_node_ids())) < participants:
        time.sleep(0.05)
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=participants, min_available_nodes=participants
    )
    arrays = ArrayRecord([np.zeros((8, 4), np.float32), np.zeros(4, np.float32)])
    started = time.perf_counter()
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)
    seconds = time.perf_counter() - started
    assert len(result.train_metrics_clientapp) == rounds, result
    report = {"seconds_per_round": seconds / rounds}
    Path(context.run_config["report"]).write_text(json.dumps(report))

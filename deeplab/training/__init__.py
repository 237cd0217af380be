"""How a network is trained and scored: loss, optimizer, schedule, plan, compiled steps, metrics."""

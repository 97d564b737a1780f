"""One model of all schedules of a task: numpy and scipy; knows neither Optuna nor torch."""

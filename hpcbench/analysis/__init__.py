"""What results say of the generators: rates with their intervals, rankings, convergence."""

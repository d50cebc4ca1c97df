"""A picture of a run: for each row the range from the fastest to p99, with a mark at p50, on a logarithmic scale."""
import math

from harness.expect import percentile

WIDTH, LEFT, RIGHT, ROW, TOP = 900, 330, 20, 22, 40
COLOURS = {"kuryr": "#1f6feb", "ptp": "#8b949e", "direct": "#8b949e"}
OTHER = "#d29922"


def svg(rows: list[tuple[str, str, list[float]]]) -> str:
    """Return the picture of rows: title, whose it is, milliseconds."""
    values = [value for _, _, all_values in rows for value in (min(all_values), percentile(all_values, 0.99))]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    height = TOP + ROW * len(rows) + 30

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - low) / (high - low)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
             '<text x="10" y="20" font-size="14">Milliseconds, from the fastest to p99; the mark is p50</text>']
    for power in range(low, high + 1):
        at = x(10 ** power)
        parts.append(f'<line x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{height - 22}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle">{10 ** power:g}</text>')
    for index, (title, plugin, all_values) in enumerate(rows):
        y, colour = TOP + ROW * index + 6, COLOURS.get(plugin, OTHER)
        begin, end, middle = x(min(all_values)), x(percentile(all_values, 0.99)), x(percentile(all_values, 0.5))
        parts.append(f'<text x="{LEFT - 10}" y="{y + 9}" text-anchor="end">{title}</text>')
        parts.append(f'<rect x="{begin:.1f}" y="{y}" width="{max(2.0, end - begin):.1f}" height="10" fill="{colour}" fill-opacity="0.45"/>')
        parts.append(f'<rect x="{middle - 1.5:.1f}" y="{y - 3}" width="3" height="16" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def of_pods(results: list[dict]):
    """Yield the rows of runs with pods: title, plugin, milliseconds."""
    sizes = sorted({size for result in results for size in result["settings"]["bursts"]})
    fields = [("ADD, one by one", "serial_add", 1)]
    fields += [(f"ADD, burst of {size}", f"burst{size}_add", 1) for size in sizes]
    fields += [("DEL, one by one", "serial_del", 1), ("Running, one by one", "serial_running", 1000)]
    fields += [(f"Running, burst of {size}", f"burst{size}_running", 1000) for size in sizes]
    for title, field, scale in fields:
        for result in results:
            for name, series in result["series"].items():
                if series.get(field):
                    yield f"{title}: {name}", series["plugin"], [max(value * scale, 0.01) for value in series[field]]

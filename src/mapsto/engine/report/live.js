// Charts to work with, drawn by uPlot from the data that stand in each figure; without scripts, and in print, the drawings stay.
(() => {
  "use strict";
  const figures = [...document.querySelectorAll("figure[data-series]")];
  const bar = document.querySelector(".tools");
  if (!figures.length || !bar) return;
  const smooth = bar.querySelector("[name=smooth]"), log = bar.querySelector("[name=log]"), hidden = new Set();
  const charts = new Map();
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shown = value => value == null ? "–" : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(3) : String(+value.toPrecision(5));
  const grouped = value => value == null ? "–" : value.toLocaleString("en");

  // An exponential moving average whose beginning is not drawn towards zero (Kingma & Ba 2015, section 3).
  function smoothed(values, share) {
    let mean = 0, weight = 0;
    return values.map(value => {
      if (value == null) return null;
      mean = share * mean + (1 - share) * value;
      weight = share * weight + (1 - share);
      return mean / weight;
    });
  }

  function build(figure) {
    const given = JSON.parse(figure.dataset.series), share = Number(smooth.value) / 100;
    const lines = given.series.filter(s => s.x.length);
    const logarithmic = log.checked || (given.log && !log.dataset.touched);
    const rows = lines.map(s => [s.x, smoothed(s.y, share).map(v => logarithmic && v != null && v <= 0 ? null : v)]);
    const data = rows.length > 1 ? uPlot.join(rows) : rows[0];
    const ink = css("--muted"), faint = css("--faint");
    const axis = { stroke: ink, grid: { stroke: faint, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const chart = new uPlot({
      width: Math.max(200, figure.querySelector(".live").clientWidth), height: 220,
      cursor: { sync: { key: "steps", setSeries: false }, drag: { x: true, y: false }, focus: { prox: 24 }, hover: { prox: 60 } },
      focus: { alpha: 0.4 },
      legend: { live: true, markers: { fill: (self, i) => self.series[i].stroke() } },
      padding: [8, 14, 0, 0],
      scales: {
        x: { time: false },
        y: logarithmic ? { distr: 3 } : { range: (_, low, high) => uPlot.rangeNum(given.zero ? 0 : low, high, 0.06, true) },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 26, label: "step", labelSize: 12, labelGap: 0, labelFont: "11px system-ui, sans-serif", values: (_, ticks) => ticks.map(grouped) },
        { ...axis, size: 46, values: (_, ticks) => ticks.map(v => v == null ? "" : shown(v)) },
      ],
      series: [{ label: "step", value: (_, v) => grouped(v) }].concat(lines.map(s => ({
        label: s.label, stroke: css("--s" + s.color), width: 1.6, spanGaps: true, show: !hidden.has(s.label),
        points: { show: s.x.length <= 60, size: 5, fill: css("--s" + s.color) },
        value: (_, v) => shown(v),
      }))),
      hooks: {
        setSeries: [(self, index, options) => {
          if (index == null || options.show == null) return;
          const label = self.series[index].label;
          options.show ? hidden.delete(label) : hidden.add(label);
          for (const other of charts.values()) other.series.forEach((s, i) => {
            if (i && s.label === label && s.show !== options.show) other.setSeries(i, { show: options.show });
          });
        }],
        setCursor: [self => { if (self.cursor.idx == null) self.setLegend({ idx: self.data[0].length - 1 }, false); }],
        draw: given.mark ? [self => {
          const [x, y] = given.mark.map((v, i) => self.valToPos(v, i ? "y" : "x", true));
          if (!isFinite(y) || share) return;
          self.ctx.save();
          self.ctx.strokeStyle = css("--ink");
          self.ctx.lineWidth = devicePixelRatio;
          self.ctx.beginPath();
          self.ctx.arc(x, y, 6 * devicePixelRatio, 0, 2 * Math.PI);
          self.ctx.stroke();
          self.ctx.restore();
        }] : [],
      },
    }, data, figure.querySelector(".live"));
    chart.setLegend({ idx: data[0].length - 1 }, false); // until something is pointed at, the last values
    return chart;
  }

  function draw() {
    for (const [figure, chart] of charts) { chart.destroy(); charts.delete(figure); }
    for (const figure of figures) charts.set(figure, build(figure));
  }

  document.documentElement.classList.add("scripted");
  bar.hidden = false;
  log.addEventListener("change", () => { log.dataset.touched = "yes"; draw(); });
  smooth.addEventListener("input", () => { bar.querySelector("output").textContent = smooth.value + " %"; draw(); });
  bar.querySelector("button").addEventListener("click", () => { hidden.clear(); draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  draw();
})();

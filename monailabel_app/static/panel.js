// The bar below OHIF's images: phases of the cine, drawing, numbers, saving. MONAI Label's own panel stays as it is and
// keeps its mask in the segmentation "1"; this script gives each phase a "1" of its own and brings it to the server.
(() => {
  const ID = '1', TOOLS = ['CircularBrush', 'CircularEraser'];
  const POLL_MS = 400, DRAFT_MS = 2000, CONNECT_MS = 1500, LOAD_MS = 15000;
  // Browsers send 64 kB for a page that is closed, of all that is on its way then. Drawings are some kB when compressed.
  const CLOSING_BYTES = 30000, pack = async voxels => new Response(new Blob([voxels]).stream().pipeThrough(new CompressionStream('gzip'))).blob();
  // What is drawn stays in the page meanwhile.
  const SIGNED_OUT = 'You are signed out. Sign in at /cine/login in another tab, then press Save here.';
  // The panel reads its server from here; the path makes it win over what it has stored itself.
  document.cookie = `MONAILABEL_SERVER_URL=${escape(location.origin + '/')}; path=/ohif/`;
  // The series that is displayed, what the server tells of it, the volume of its labelmap, the voxels last known there,
  // and what is drawn.
  let shown = '', about = null, made = '', kept = null, drawn = null;
  // The drawing is not on the server, would be lost if the page closed now, is a proposal over a saved label; the model
  // whose mask is just being drawn; how many strokes there were, and when the last change.
  let dirty = false, unsafe = false, proposed = false, arriving = '', strokes = 0, changed = 0;
  // When the panel was connected and the bar made; an action goes on, the whole cine is segmented; what to tell in place
  // of the panel's next alarm, and that alarms are watched.
  let connected = 0, began = 0, busy = false, waiting = false, notice = null, watching = false;
  let bar = null, structure = 3, tool = '', arranged = false;

  const run = (name, options) => window.commandsManager.run(name, options);
  const displaySet = () => {
    const {viewports, activeViewportId} = window.services.viewportGridService.getState();
    const [uid] = viewports.get(activeViewportId)?.displaySetInstanceUIDs ?? [];
    return uid && window.services.displaySetService.getDisplaySetByUID(uid);
  };
  // Before that, OHIF fails with an alarm when a segmentation is made or the layout changes.
  const loaded = () => displaySet()?.imageIds && [...window.services.viewportGridService.getState().viewports.keys()]
    .every(id => window.services.cornerstoneViewportService.getCornerstoneViewport(id)?.getImageData?.());
  const labelmap = () => {
    const state = window.cornerstoneTools.segmentation.state.getSegmentation(ID);
    const id = state?.representationData?.Labelmap?.volumeId, volume = id && window.cornerstone.cache.getVolume(id);
    return volume && {
      volume, names: Object.fromEntries(Object.values(state.segments).map(s => [s.segmentIndex, s.label])),
      voxels: new Uint8Array(volume.voxelManager.getCompleteScalarDataArray()),
      planes: volume.imageIds.map(id => /instances\/([0-9.]+)/.exec(window.cornerstone.cache.getImage(id).referencedImageId)[1]),
    };
  };
  const ask = async (path, options) => {
    const answer = await fetch(path, options);
    if (answer.ok) return answer;
    const {detail} = answer.status === 401 ? {detail: SIGNED_OUT} : await answer.json().catch(() => ({}));
    throw Object.assign(new Error(detail || `error ${answer.status}`), {status: answer.status});
  };
  // A mask that arrives when another phase is displayed by then would be drawn over that one: the panel is told no, and
  // the annotator where it is; so too where the annotator has drawn meanwhile. What failed is told with its reason. The
  // panel only knows that there is no mask.
  const send = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    const [, model, asked] = /\/infer\/(\w+).*[?&]image=([^&]+)/.exec(url) || [], name = `Phase ${about ? about.phase + 1 : ''}`, before = strokes;
    if (asked && dirty) inTurn(() => save('original'));
    if (asked) this.addEventListener('loadend', () => {
      const here = asked === displaySet()?.SeriesInstanceUID;
      if (this.status !== 200) return void (notice = {message: `${name} was not segmented: ${reason(this)}`});
      const same = here && asked === shown && labelmap()?.volume.volumeId === made, drawnOn = same && strokes !== before;
      // The panel draws it before anything else happens in the page.
      if (same && !drawnOn) return void (arriving = model, setTimeout(() => { arriving = ''; }));
      Object.defineProperty(this, 'status', {value: 409});
      if (drawnOn) [dirty, changed] = [true, Date.now()];
      notice = {type: 'info', message: drawnOn ? `You have drawn in ${name} meanwhile: that stays.` : `${name} is segmented. ${here ? '' : 'You see it when you go back there.'}`};
      if (here && !same) inTurn(() => { shown = ''; });
    });
    return send.call(this, method, url, ...rest);
  };
  const reason = ({status, response}) => {
    try { return JSON.parse(new TextDecoder().decode(response)).detail; } catch { return `error ${status}`; }
  };
  function watchNotifications() {
    const service = Object.getPrototypeOf(window.services.uiNotificationService), show = service.show;
    service.show = function (options) {
      const instead = options.type === 'error' && options.title?.startsWith('MONAI Label') && notice;
      if (instead) notice = null;
      return show.call(this, {...options, ...instead});
    };
  }
  const until = async (ready, problem) => {
    for (let waited = 0; !ready(); waited += 50) {
      if (waited > LOAD_MS) throw new Error(problem);
      await new Promise(done => setTimeout(done, 50));
    }
  };
  // One thing at a time, so that what is saved is saved for the phase it was drawn in.
  const inTurn = async action => {
    while (busy) await new Promise(done => setTimeout(done, 50));
    busy = true;
    try { await action(); } catch (error) { console.error(error); if (bar) say(error.message, true); } finally { busy = false; }
  };
  const form = parts => Object.entries(parts).reduce((data, [name, part]) => (data.append(name, part), data), new FormData());
  const image = () => `image=${encodeURIComponent(about?.id || shown)}`;
  const say = (text, failed = false) => {
    bar.querySelector('#cine-state').textContent = (waiting && !failed ? 'Segmenting the whole cine … ' : '') + text;
    bar.classList.toggle('failed', failed);
  };

  function show(series) {
    const {viewportGridService: grid, displaySetService: sets, hangingProtocolService: protocol} = window.services;
    const set = sets.getActiveDisplaySets().find(each => each.SeriesInstanceUID === series);
    if (set) grid.setDisplaySetsForViewports(protocol.getViewportsRequireUpdate(grid.getActiveViewportId(), set.displaySetInstanceUID));
  }

  // One viewport in the plane of the slices: OHIF's three lie across an oblique short axis, where nobody can draw.
  function showShortAxis() {
    const volume = [{attribute: 'isReconstructable', constraint: {equals: {value: true}}, required: true}];
    const options = {viewportId: 'cine', toolGroupId: 'mpr', viewportType: 'volume', orientation: 'acquisition', initialImageOptions: {preset: 'middle'}};
    window.services.hangingProtocolService.addProtocol('cine', {
      id: 'cine', name: 'Short axis', protocolMatchingRules: [], toolGroupIds: ['mpr'],
      displaySetSelectors: {cine: {seriesMatchingRules: volume}},
      stages: [{name: 'Short axis', viewportStructure: {layoutType: 'grid', properties: {rows: 1, columns: 1}},
        viewports: [{viewportOptions: options, displaySets: [{id: 'cine'}]}]}],
    });
    run('setHangingProtocol', {protocolId: 'cine'});
    window.services.segmentationService.setStyle({type: 'Labelmap'}, {fillAlpha: 0.25, fillAlphaInactive: 0.25, outlineWidth: 2});
  }

  async function makeLabelmap() {
    const {segmentationService, viewportGridService} = window.services;
    await until(loaded, 'OHIF does not load the images, please reload');
    if (segmentationService.getSegmentation(ID)) segmentationService.remove(ID);
    const segments = Object.fromEntries(about.structures.map(({id, key, colour}) =>
      [id, {segmentIndex: id, label: key, active: id === structure, locked: false, color: [...colour, 255]}]));
    await run('loadSegmentationsForViewport', {segmentations: [
      {segmentationId: ID, representation: {type: 'Labelmap'}, config: {label: 'Cine', segments}}]});
    for (const s of Object.values(segments))
      window.cornerstoneTools.segmentation.config.color.setSegmentIndexColor(viewportGridService.getActiveViewportId(), ID, s.segmentIndex, s.color);
    await until(labelmap, 'OHIF does not make a segmentation, please reload');
    [made, kept] = [labelmap().volume.volumeId, labelmap().voxels];
  }

  function fill(voxels) {
    const {volume, planes} = labelmap(), size = voxels.length / planes.length, ordered = new Uint8Array(voxels.length);
    planes.forEach((uid, p) => ordered.set(voxels.subarray(about.slices.indexOf(uid) * size, (about.slices.indexOf(uid) + 1) * size), p * size));
    kept = ordered;
    volume.voxelManager.setCompleteScalarDataArray(ordered);
    window.cornerstone.triggerEvent(window.cornerstone.eventTarget, window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED, {segmentationId: ID});
  }

  // Nothing is waited for before a drawing is sent that is compressed already: the page may be about to close.
  async function save(tag, it = labelmap()) {
    [drawn, kept, dirty, proposed, unsafe] = [it, it.voxels, false, false, true];
    const failed = error => { [dirty, unsafe, changed] = [true, true, Date.now()]; throw error; };
    it.packed ||= await pack(it.voxels).catch(failed);
    unsafe = it.packed.size > CLOSING_BYTES;
    const body = form({about: JSON.stringify({planes: it.planes, names: it.names, gzip: true}), voxels: it.packed});
    await ask(`/cine/save?${image()}&tag=${tag}`, {method: 'POST', body, keepalive: !unsafe}).catch(failed);
    unsafe = false;
    await look();
  }

  // A proposal over a saved label is only displayed, and the numbers are its own, until it is drawn on or saved.
  async function look() {
    about = await (await ask(`/cine/summary?${image()}`)).json();
    if (proposed && about.label?.tag === 'final') Object.assign(about, {label: {source: 'model'}, result: (await (await ask(`/datastore/image/info?${image()}`)).json()).result});
  }

  async function open(series) {
    if (dirty) await save('original', drawn);
    [shown, about, dirty, proposed, made] = [series, null, false, false, ''];
    try {
      about = await (await ask(`/cine/summary?${image()}`)).json();
    } catch (error) {
      if (error.status !== 404) { shown = ''; throw error; }
      return draw('This series is no phase of a cine.');
    }
    if (!arranged) {
      arranged = true;
      showShortAxis();
      await until(() => window.services.viewportGridService.getActiveViewportId() === 'cine' && loaded(), 'OHIF does not load the images, please reload');
      show(new URLSearchParams(location.search).get('initialSeriesInstanceUID'));
      return void (shown = '');
    }
    // First, so that nobody draws in what is about to be filled.
    const label = about.label && await (await ask(`/cine/label?${image()}&tag=${about.label.tag}`)).arrayBuffer();
    await makeLabelmap();
    if (label) fill(new Uint8Array(label));
    draw();
  }

  async function segmentCine() {
    if (waiting) return;
    if (dirty) await inTurn(() => save('original'));
    waiting = true;
    try { say(''); await ask(`/infer/cardiac_cine?${image()}&output=json`, {method: 'POST', body: form({params: '{"whole_cine": true}'})}); } finally { waiting = false; }
    await inTurn(() => { shown = ''; });
  }

  async function next(skip) {
    if (dirty) await save('original');
    const strategy = document.querySelector('.optionsTable select')?.value || 'random';
    const client = localStorage.cineClient ||= crypto.getRandomValues(new Uint32Array(2)).join('-');
    const found = await (await ask(`/activelearning/${strategy}`, {
      method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({client_id: `ohif-${client}`, ...skip})})).json();
    if (!found.StudyInstanceUID) return say('Nothing is left that nobody else works on.');
    if (found.SeriesInstanceUID === shown) return say('This is the next one: it is yours until its label is saved.');
    location.assign(`/ohif/monai-label?StudyInstanceUIDs=${found.StudyInstanceUID}&initialSeriesInstanceUID=${found.SeriesInstanceUID}`);
  }

  async function signOut() {
    if (dirty) await save('original');
    await ask('/cine/logout', {method: 'POST'});
    location.assign('/cine/login');
  }

  function use(name) {
    window.services.segmentationService.setActiveSegment(ID, structure);
    run('setToolActiveToolbar', {toolName: name, toolGroupIds: ['mpr']});
    run('setBrushSize', {value: bar.querySelector('input').value, toolNames: TOOLS});
  }

  // Also when a tool of OHIF's own is taken for the left button.
  function activated({detail: {toolName, toolBindingsOptions}}) {
    if (!toolBindingsOptions?.bindings?.some(binding => binding.mouseButton === 1)) return;
    tool = toolName;
    if (bar && about?.phases) draw();
  }

  // A person's choice: the network no longer changes it.
  async function setKey(key) {
    if (dirty) await save('original');
    await ask(`/cine/key?${image()}&key=${key}`, {method: 'POST'});
    await look();
    draw();
  }

  function numbers() {
    const {measurements: m = {}, volumes_ml: ml, quality_flags: flags = []} = about.result;
    const number = (value, unit) => value === null || value === undefined ? '–' : `${value.toFixed(0)} ${unit}`;
    const parts = ['lv', 'rv'].map(key => `${key.toUpperCase()} ${number(ml?.[`${key}_ml`], 'mL')}, EF ${number(m[`${key}_ef_percent`], '%')}`);
    return (ml ? parts.join('  ·  ') : 'not segmented yet') + (flags.length ? `  ·  check: ${flags.map(flag => flag.code).join(', ')}` : '');
  }

  function draw(message) {
    const make = (tag, facts) => Object.assign(document.createElement(tag), facts), text = (words, id = '') => make('span', {textContent: words, id});
    const button = (words, action, title, on = false) => make('button', {textContent: words, title, className: on ? 'on' : '',
      onclick: async () => { try { await action(); } catch (error) { say(error.message, true); } }});
    if (message) return bar.replaceChildren(text(message, 'cine-state'));
    const {phases, phase, structures} = about, size = bar.querySelector('input')?.value || 6, go = to => () => show(phases[(to + phases.length) % phases.length].series);
    const resize = () => run('setBrushSize', {value: slider.value, toolNames: TOOLS});
    const slider = make('input', {type: 'range', min: 1, max: 30, value: size, title: 'brush size, mm', oninput: resize});
    const keys = make('select', {title: 'what this phase is', hidden: phases.length < 2, onchange: () => inTurn(() => setKey(keys.value))});
    keys.append(...['', 'ED', 'ES'].map(key => Object.assign(new Option(key || '–', key, false, key === phases[phase].key), {disabled: !key})));
    bar.replaceChildren(
      button('◀', go(phase - 1), 'previous phase'), ...['ED', 'ES'].map(key => phases.findIndex(each => each.key === key)).filter(i => i >= 0)
        .map(i => button(phases[i].key + (phases[i].labelled ? ' ✓' : ''), go(i), `show ${phases[i].key}; ✓: saved`, i === phase)),
      button('▶', go(phase + 1), 'next phase'), text(`phase ${phase + 1} of ${phases.length}`, 'cine-phase'), keys,
      button('Segment', () => document.querySelector('.modelSelector button[title="Run Segmentation"]').click(), 'the selected model on this phase'),
      button('Whole cine', segmentCine, 'all phases: EF, and a proposal for each phase'),
      ...structures.map(({id, key, name, colour}) => Object.assign(
        button(key.toUpperCase(), () => { structure = id; use(TOOLS[0]); }, `draw the ${name}`, tool === TOOLS[0] && id === structure),
        {style: `border-bottom: 3px solid rgb(${colour})`})),
      button('Erase', () => use(TOOLS[1]), 'erase', tool === TOOLS[1]), slider,
      Object.assign(text(numbers(), 'cine-numbers'), {title: (about.result.quality_flags || []).map(flag => flag.reason).join('\n')}),
      button('Save', () => inTurn(async () => { say('Saving …'); await save('final'); draw(); }), 'make this the label of this phase', true),
      text('', 'cine-state'),
      button('Next case', () => inTurn(next), 'the next one to annotate, by the strategy that is chosen at the right'),
      button('Skip', () => inTurn(() => next({skip: about.id})), 'never offer this phase to me again, and go on'),
      ...(about.user === 'anonymous' ? [] : [button('Sign out', () => inTurn(signOut), `you are ${about.user}`)]));
    const {label} = about, at = label && new Date(label.utc).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'});
    say(dirty ? 'changed, not saved' : !label ? 'no label yet' : label.tag === 'final' ? `saved at ${at}` : label.source === 'drawn' ? 'changed, not saved' : 'proposal, not saved');
  }

  async function tick() {
    const input = document.querySelector('#monailabelServerURL'), ready = window.services && window.cornerstone && input && displaySet();
    if (!ready) {
      if (dirty) await save('original', drawn);
      return void ([bar, shown, made, arranged, connected] = [bar?.remove(), '', '', false, 0]);
    }
    if (!bar) {
      bar = Object.assign(document.createElement('div'), {id: 'cine-bar'});
      document.body.append(Object.assign(document.createElement('link'), {rel: 'stylesheet', href: '/cine/panel.css'}), bar);
      draw('Connecting …');
      [watching, began] = [watching || !watchNotifications(), Date.now()];
      const {SEGMENTATION_DATA_MODIFIED, TOOL_ACTIVATED} = window.cornerstoneTools.Enums.Events;
      for (const [name, act] of [[SEGMENTATION_DATA_MODIFIED, modified], [TOOL_ACTIVATED, activated]]) window.cornerstone.eventTarget.addEventListener(name, act);
    }
    if (!document.querySelector('.modelSelector')) {
      if (connected || !(loaded() || Date.now() - began > LOAD_MS)) return;
      input.value = location.origin + '/';
      input.parentElement.parentElement.querySelector('button').click();
      connected = Date.now();
      return;
    }
    // The panel makes a "1" of its own when it connects, and colours it a second later.
    const current = labelmap()?.volume.volumeId;
    if (current && current !== made && made !== '') [shown, made, connected] = ['', '', Date.now()];
    if (Date.now() - connected < CONNECT_MS) return;
    if (displaySet().SeriesInstanceUID !== shown) return open(displaySet().SeriesInstanceUID);
    if (dirty && about && Date.now() - changed > DRAFT_MS) { await save('original'); draw(); }
  }

  // OHIF tells of changes also when it first draws a mask, at a moment of its own.
  function modified(event) {
    const current = event.detail.segmentationId === ID && labelmap();
    if (!current || current.volume.volumeId !== made) return;
    const same = current.voxels.every((value, i) => value === kept[i]);
    // The server keeps what a model proposes; a correction where someone clicked is as good as drawn.
    if (arriving && arriving !== 'cardiac_cine_correct') {
      [kept, dirty, proposed] = [current.voxels, false, proposed || !same || about.label?.tag !== 'final'];
      return void inTurn(async () => { if (bar && about) { await look(); draw(); } });
    }
    if (!dirty && same) return;
    if (!dirty && bar) say('changed, not saved');
    [drawn, dirty, changed, strokes] = [current, true, Date.now(), strokes + !arriving];
    pack(current.voxels).then(packed => { current.packed = packed; });
  }

  for (const left of ['pagehide', 'visibilitychange']) addEventListener(left, () => { if (dirty) save('original', drawn).catch(console.error); });
  addEventListener('beforeunload', event => { if (unsafe || (dirty && !(drawn.packed?.size <= CLOSING_BYTES))) event.preventDefault(); });
  setInterval(() => busy || inTurn(tick), POLL_MS);
})();
